"""A mixture of experts small enough to compile in a second, with every leaf random."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.forward import forward
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import map_table

CONFIG = LFM2Config(
    vocab_size=31,
    hidden_size=16,
    intermediate_size=24,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    layer_types=("conv", "full_attention", "conv"),
    num_experts=8,
    num_experts_per_tok=3,
    moe_intermediate_size=12,
    num_dense_layers=1,
    routed_scaling_factor=1.5,
)


@functools.cache
def params(config=CONFIG):
    rng = np.random.default_rng(0)

    def draw(p):
        if len(p.shape) == 1:
            return jnp.asarray(0.2 * rng.standard_normal(p.shape) + (not p.buffer), jnp.float32)
        return jnp.asarray(0.35 * rng.standard_normal(p.shape), jnp.float32)

    return map_table(draw, param_table(config))


@functools.partial(jax.jit, static_argnames=("config", "remat", "dtype", "experts"))
def hidden_and_gradient(params, tokens, segments, positions, weight, config=CONFIG, **options):
    """Final hidden states, the router's sums, and the gradient of `sum(hidden * weight)`."""

    def f(params):
        hidden, aux = forward(params, tokens, segments, positions, config=config, **options)
        return jnp.sum(hidden.astype(jnp.float32) * weight), (hidden, aux["router"])

    gradient, (hidden, sums) = jax.grad(f, has_aux=True)(params)
    return hidden, sums, gradient
