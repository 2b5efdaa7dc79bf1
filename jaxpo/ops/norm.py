"""Root-mean-square normalisation."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxpo.ops.one_row import without_one_row


def rms_norm(x: Float[Array, "... D"], weight: Float[Array, "D"], eps: float) -> Float[Array, "... D"]:
    """`w * x / sqrt(mean(x^2) + eps)` over the last axis (Zhang and Sennrich 2019, arXiv 1910.07467, eq. 4).

    Statistics in float32; the normalised value is cast back to `x.dtype` before it meets the weight.
    """

    def normed(x: Array) -> Array:
        wide = x.astype(jnp.float32)
        scale = lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + eps)
        return weight.astype(x.dtype) * (wide * scale).astype(x.dtype)

    return without_one_row(normed, x) if x.ndim > 2 else normed(x)
