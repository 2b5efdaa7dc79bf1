"""Where the two responses of a pair part, and what is read of one that has ended."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxpo.data.packing.batch import Batch, rows_of, take
from jaxpo.ops.segments import segment_bounds

SIDES = ("chosen", "rejected")


def first_difference(batch: Batch) -> tuple[Int[Array, "N"], Int[Array, "N 2"]]:
    """Position of the first token in which both sides differ, and the number of tokens of each, prompts included.

    Where one side begins the other, the first position beyond it; where both are one, their length: no position.
    """
    _, lengths = segment_bounds(batch.segment_ids, batch.slots)
    ends = jnp.stack([take(lengths, batch.roles[side], batch) for side in SIDES], axis=1)
    chosen, rejected = (rows_of(batch.tokens, batch.roles[side], batch) for side in SIDES)
    at = jnp.arange(batch.max_segment)
    apart = ((chosen != rejected) | (at >= jnp.min(ends, axis=1)[:, None])) & (at < jnp.max(ends, axis=1)[:, None])
    return jnp.where(jnp.any(apart, axis=1), jnp.argmax(apart, axis=1), jnp.max(ends, axis=1)), ends


def held(x: Float[Array, "N T"], end: Int[Array, "N"]) -> Float[Array, "N T"]:
    """The same up to `end`, and from there on the last value before it."""
    index = jnp.minimum(jnp.arange(x.shape[1]), jnp.maximum(end[:, None] - 1, 0))
    return jnp.take_along_axis(x, index, axis=1)
