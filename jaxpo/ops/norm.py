"""Root-mean-square normalisation."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def rms_norm(x: Float[Array, "... D"], weight: Float[Array, "D"], eps: float) -> Float[Array, "... D"]:
    """`w * x / sqrt(mean(x^2) + eps)` over the last axis (Zhang and Sennrich 2019, arXiv 1910.07467, eq. 4).

    Statistics in float32; the normalised value is cast back to `x.dtype` before it meets the weight.
    """
    wide = x.astype(jnp.float32)
    scale = lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + eps)
    return weight.astype(x.dtype) * (wide * scale).astype(x.dtype)
