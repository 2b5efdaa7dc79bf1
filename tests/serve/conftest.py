"""A tokenizer; a server whose engine answers with what is written down, and one with a random model."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes.scripted_engine import ScriptedEngine
from serve.running import running

from jaxpo.data.tokenizer.tokenizer import train_tokenizer
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.forward import forward, unembedding
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import init_params
from jaxpo.sampling.engine import Engine

WORDS = "the quick brown fox jumps over the lazy dog, naïve café 你好 and so on. "
CONFIG = LFM2Config(
    vocab_size=400,
    hidden_size=16,
    intermediate_size=32,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=4,
    layer_types=("conv", "full_attention", "conv"),
    max_position_embeddings=128,
    initializer_range=0.4,
)
ANSWER = "the lazy dog, naïve café 你好, and the fox"


@pytest.fixture(scope="session")
def tokenizer():
    return train_tokenizer([WORDS * 3], 300)


@pytest.fixture(scope="session")
def scripted(tokenizer):
    """A server that answers `ANSWER`, sample s without its first s tokens, and then ends its turn."""
    ids = [*tokenizer.encode(ANSWER), tokenizer.eos_id]
    with running(ScriptedEngine(tokenizer, lambda request, sample: ids[sample:]), tokenizer) as found:
        yield found


@pytest.fixture(scope="module")
def speaker(tokenizer):
    """A random model with more rows than the tokenizer has ids."""
    config = dataclasses.replace(CONFIG, vocab_size=tokenizer.vocab_size + 6)
    return init_params(param_table(config), jax.random.key(0)), config


@pytest.fixture(scope="module")
def logp(speaker):
    """`[S, V]` log-probs of the training forward, float64 from float32 logits."""
    params, config = speaker

    @jax.jit
    def logits(row, length):
        segments = (jnp.arange(row.shape[0]) < length).astype(jnp.int32)[None]
        hidden, _ = forward(params, row[None], segments, jnp.arange(row.shape[0])[None], config=config)
        return (hidden @ unembedding(params).T)[0]

    def of(tokens):
        row = np.zeros(128, np.int32)
        row[: len(tokens)] = tokens
        found = np.asarray(logits(row, len(tokens)), np.float64)[: len(tokens)]
        return (
            found
            - np.log(np.exp(found - found.max(-1, keepdims=True)).sum(-1, keepdims=True))
            - found.max(-1, keepdims=True)
        )

    return of


@pytest.fixture(scope="module")
def served(speaker, tokenizer):
    params, config = speaker
    engine = Engine(params, config, tokenizer=tokenizer, slots=4, rounds=4, page=16, together=64, one_shape=True)
    with running(engine, tokenizer, vocabulary=config.vocab_size, context=engine.context) as found:
        yield found
