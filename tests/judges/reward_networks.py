"""Reward models of every kind with random weights, as networks."""

from __future__ import annotations

import functools
from typing import Any

import jax

from jaxpo.convert.reader import REWARD, Reader
from jaxpo.data.tokenizer.tokenizer import Tokenizer, train_tokenizer
from jaxpo.judges.network import Network
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import init_params
from jaxpo.objectives.methods import METHODS

CONFIG = LFM2Config(
    vocab_size=320,
    hidden_size=16,
    intermediate_size=24,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
    layer_types=("conv", "full_attention"),
    initializer_range=0.35,
)
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "value": ("bradley_terry", {}),
    "yes_no": ("outcome_reward", {"yes_no": (65, 66)}),
    "aspects": ("rating", {"aspects": ("brief", "helpful"), "weights": (0.25, 0.75)}),
    "embedding": ("embedding_reward", {"size": 5}),
    "two_embeddings": ("embedding_reward", {"size": 5, "query": "prompt", "unit_length": False}),
    "steps": ("process_reward", {"combine": "product"}),
}
WITHOUT_REWARDS: dict[str, tuple[str, dict[str, Any]]] = {
    "words": ("token_classification", {"classes": ("O", "B-PER", "I-PER")}),
    "compared": ("gpm", {"size": 4}),
}
PROMPTS = ["Add 2 and 3.", "What is 4 * 2 + 1?", "Name a fruit.", "Say nothing much, at length."]
ANSWERS = ["5.", "4 * 2 = 8\n8 + 1 = 9\n", "An apple.", "one\n\ntwo\nthree four five six seven eight nine"]


@functools.cache
def tokenizer() -> Tokenizer:
    return train_tokenizer(["the quick brown fox jumps over the lazy dog\n" * 20], 320)


@functools.cache
def network(name: str, **rates: float) -> Network:
    chosen, settings = {**SETTINGS, **WITHOUT_REWARDS}[name]
    method = METHODS[chosen](**settings)
    tables = {"model": param_table(CONFIG), **method.extra_tables(CONFIG)}
    params = {group: init_params(table, jax.random.key(1)) for group, table in tables.items()}
    for group in params.keys() - {"model"}:
        params[group] = jax.tree.map(lambda x: 0.5 * jax.random.normal(jax.random.key(x.size), x.shape), params[group])
    about = {"stage": name, "trained_on": "nothing", REWARD: Reader(method, **rates).as_json()}
    return Network(params, CONFIG, tokenizer(), about, max_length=96)
