"""Models of several tastes with random weights, as networks."""

from __future__ import annotations

import functools
from typing import Any

import jax
from judges.reward_networks import CONFIG, tokenizer

from jaxpo.convert.reader import REWARD, Reader
from jaxpo.judges.network import Network
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import init_params
from jaxpo.objectives.methods import METHODS

SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpm": ("gpm", {"size": 4}),
    "gpm_learnt": ("gpm", {"size": 2, "gate": "none", "learn_temperature": True, "unit_length": False}),
    "pal_a": ("pal", {"users": ("ann", "ben", "cat"), "size": 5}),
    "pal_b": ("pal", {"users": ("ann", "ben", "cat"), "size": 5, "variant": "b", "mixture": (0.25, 0.75)}),
    "micro": ("micro", {"heads": 3}),
    "micro_mixed": ("micro", {"heads": 3, "variant": "mixed_rewards"}),
    "maxmin": ("maxmin_rlhf", {"means": (1.0, 0.0), "scales": (2.0, 0.5)}),
    "maxmin_0": ("maxmin_rlhf", {"own": 0}),
    "maxmin_1": ("maxmin_rlhf", {"own": 1}),
}


@functools.cache
def network(name: str) -> Network:
    method = METHODS[SETTINGS[name][0]](**SETTINGS[name][1])
    tables = {"model": param_table(CONFIG), **method.extra_tables(CONFIG)}
    params = {group: init_params(table, jax.random.key(1)) for group, table in tables.items()}
    for group in params.keys() - {"model"}:
        params[group] = jax.tree.map(lambda x: 0.5 * jax.random.normal(jax.random.key(x.size), x.shape), params[group])
    about = {"stage": name, "trained_on": "nothing", REWARD: Reader(method).as_json()}
    return Network(params, CONFIG, tokenizer(), about, max_length=96)
