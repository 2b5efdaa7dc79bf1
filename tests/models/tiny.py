"""One model of each generation, small enough to compile in a second, with every leaf random, and batches for it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.forward import forward
from jaxpo.models.lfm2.table import param_table

CONFIG = LFM2Config(
    vocab_size=31,
    hidden_size=16,
    intermediate_size=24,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    layer_types=("conv", "full_attention", "conv"),
)
LFM3 = dataclasses.replace(
    CONFIG,
    model_type="lfm3",
    layer_types=("conv", "full_attention", "sliding_attention"),
    conv_kernel=7,
    sliding_window=4,
    partial_rotary_factor=0.5,
    sandwich_norm=True,
    attention_gate=True,
    tie_word_embeddings=False,
)
CONFIGS = {"lfm2": CONFIG, "lfm3": LFM3}


@functools.cache
def params(config=CONFIG):
    shapes = jax.tree.map(lambda p: p.shape, param_table(config), is_leaf=lambda x: hasattr(x, "hf"))
    rng = np.random.default_rng(0)
    draw = lambda s: 1 + 0.3 * rng.standard_normal(s) if len(s) == 1 else 0.35 * rng.standard_normal(s)  # noqa: E731
    return jax.tree.map(lambda s: jnp.asarray(draw(s), jnp.float32), shapes, is_leaf=lambda x: isinstance(x, tuple))


@functools.partial(jax.jit, static_argnames=("config", "causal", "max_segment", "remat", "dtype"))
def hidden_and_gradient(params, tokens, segments, positions, weight, *, config=CONFIG, **options):
    """Final hidden states, and the gradient of `sum(hidden * weight)`."""

    def f(params):
        hidden, _ = forward(params, tokens, segments, positions, config=config, **options)
        return jnp.sum(hidden.astype(jnp.float32) * weight), hidden

    gradient, hidden = jax.grad(f, has_aux=True)(params)
    return hidden, gradient


def random_tokens(rows, length, seed=0):
    return np.random.default_rng(seed).integers(0, CONFIG.vocab_size, (rows, length))


def assert_trees_close(a, b, tolerance=2e-5):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, atol=tolerance * max(np.abs(y).max(), 1e-3), rtol=0)
