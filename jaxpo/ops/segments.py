"""Where the segments of packed rows lie."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Int


def segment_bounds(segment_ids: Int[Array, "R S"], slots: int) -> tuple[Int[Array, "R M"], Int[Array, "R M"]]:
    """Start and length of every slot's segment, both `[R, M]`; an absent segment has length 0."""
    inside = segment_ids[:, None, :] == jnp.arange(1, slots + 1)[None, :, None]
    return jnp.argmax(inside, axis=-1), jnp.sum(inside, axis=-1)
