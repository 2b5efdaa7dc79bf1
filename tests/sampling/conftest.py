"""A tiny model of each generation with every leaf randomised, so that its predictions are far from uniform."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.forward import forward, unembedding
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import init_params

CONFIG = LFM2Config(
    vocab_size=61,
    hidden_size=16,
    intermediate_size=32,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=4,
    layer_types=("conv", "full_attention", "conv"),
    max_position_embeddings=256,
)
LFM3 = dataclasses.replace(
    CONFIG,
    model_type="lfm3",
    layer_types=("conv", "full_attention", "sliding_attention"),
    conv_kernel=7,
    sliding_window=5,
    partial_rotary_factor=0.5,
    sandwich_norm=True,
    attention_gate=True,
    tie_word_embeddings=False,
)
MOE = dataclasses.replace(
    CONFIG,
    layer_types=CONFIG.layer_types[:2],
    num_experts=4,
    num_experts_per_tok=2,
    moe_intermediate_size=16,
    num_dense_layers=1,
)


def randomised(config, seed=0):
    """Parameters of the right shapes with matrices large enough that logits have a standard deviation of about 2."""
    params = init_params(param_table(config), jax.random.key(seed))
    leaves, treedef = jax.tree.flatten(params)
    rng = np.random.default_rng(seed)
    drawn = [
        1 + 0.3 * rng.normal(size=x.shape) if x.ndim == 1 else rng.normal(size=x.shape) / np.sqrt(config.hidden_size)
        for x in leaves
    ]
    return jax.tree.unflatten(treedef, [jnp.asarray(2 * x if x.ndim > 1 else x, jnp.float32) for x in drawn])


def build(config):
    params = randomised(config)

    @jax.jit
    def padded_logits(tokens, length):
        """The training forward on one row: the text is one segment, the rest padding."""
        segments = (jnp.arange(tokens.shape[0]) < length).astype(jnp.int32)[None]
        positions = jnp.arange(tokens.shape[0])[None]
        hidden, _ = forward(params, tokens[None], segments, positions, config=config)
        return (hidden @ unembedding(params).T)[0]

    def logits(tokens):
        """Uncached logits `[len(tokens), V]`, float32."""
        width = 256
        row = np.zeros(width, np.int32)
        row[: len(tokens)] = tokens
        return np.asarray(padded_logits(row, len(tokens)))[: len(tokens)]

    return SimpleNamespace(config=config, params=params, logits=logits, randomised=randomised)


@pytest.fixture(scope="session")
def model():
    return build(CONFIG)


@pytest.fixture(scope="session")
def lfm3():
    return build(LFM3)


@pytest.fixture(scope="session")
def moe():
    return build(MOE)


@pytest.fixture(params=["model", "lfm3"])
def either(request):
    return request.getfixturevalue(request.param)
