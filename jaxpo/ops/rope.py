"""Rotary position embedding, rotate-half form (Su et al. 2021, arXiv 2104.09864, eq. 34, pairs i and i + h/2)."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Rope(NamedTuple):
    """`cos` and `sin` of the rotation angles, float32 `[R, S, h/2]`."""

    cos: Float[Array, "R S half"]
    sin: Float[Array, "R S half"]


def rope_table(positions: Int[Array, "R S"], head_dim: int, theta: float, pairs: int | None = None) -> Rope:
    """Angles `positions * theta^(-2i / h)`, i = 0..h/2-1, in float32 whatever the compute type.

    With `pairs`, only the first (fastest) of them turn: the angles of the others are zero.
    """
    exponent = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
    frequency = 1.0 / theta**exponent
    if pairs is not None:
        frequency = jnp.where(jnp.arange(head_dim // 2) < pairs, frequency, 0.0)
    angle = positions.astype(jnp.float32)[..., None] * frequency
    return Rope(jnp.cos(angle), jnp.sin(angle))


def apply_rope(x: Float[Array, "R S H h"], rope: Rope) -> Float[Array, "R S H h"]:
    """Rotate each pair `(x_i, x_{i+h/2})` by its angle; computed in float32, returned in `x.dtype`."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = rope.cos[..., None, :], rope.sin[..., None, :]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
