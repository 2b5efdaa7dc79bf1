"""Segments that continue a prefix: text that several segments of a row share, written once before them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from jaxpo.ops.segments import segment_bounds


@struct.dataclass
class Prefix:
    """Where segments lie that continue another one of their row, and where what they continue ends.

    A segment that continues another sees its positions as if they stood directly before its own. The other one comes
    first in the row, and continues nothing itself.

    Attributes:
      ids: `[R, S]`, the id of the segment that a position's segment continues; 0 = none.
      own: `[R, M]`, ids of the segments that continue one; 0 = an unused slot.
      start: `[R, M]`, their first positions.
      end: `[R, M]`, the position after the last one of what they continue.
    """

    ids: Int[Array, "R S"]
    own: Int[Array, "R M"]
    start: Int[Array, "R M"]
    end: Int[Array, "R M"]


def prefix_of(segment_ids: Int[Array, "R S"], continues: Int[Array, "R M"]) -> Prefix:
    """Where the segments of a row lie that continue another one.

    Args:
      segment_ids: `[R, S]`; 0 is padding, 1..M are the row's segments, each contiguous.
      continues: `[R, M]`, the id of the segment that segment m + 1 continues; 0 = none.
    """
    start, length = segment_bounds(segment_ids, continues.shape[1])
    ids = jnp.take_along_axis(jnp.pad(continues, ((0, 0), (1, 0))), segment_ids, axis=1)
    own = jnp.where(continues > 0, jnp.arange(1, continues.shape[1] + 1), 0)
    end = jnp.take_along_axis(start + length, jnp.maximum(continues - 1, 0), axis=1)
    return Prefix(ids, own, start, end)


def continued_conv(
    y: Float[Array, "R S D"],
    gates: Float[Array, "R S 3 D"],
    kernel: Float[Array, "k D"],
    segment_ids: Int[Array, "R S"],
    prefix: Prefix,
) -> Float[Array, "R S D"]:
    """`y` of `jaxpo.ops.conv.gated_short_conv`, with the taps that reach from a segment's start into its prefix.

    At place i of a segment these are `c[i] sum_n kernel[k-2-i-n] u[end - 1 - n]`, n = 0..k-2-i: of the k-1 positions at
    the prefix's end, for the first k-1 positions of each segment.
    """
    taps = kernel.shape[0]
    if taps == 1:
        return y
    near = jnp.arange(taps - 1)
    before = prefix.end[..., None] - 1 - near
    at = prefix.start[..., None] + near
    continued = prefix.own > 0
    b, _, x = _gates_at(gates, before)
    known = continued[..., None] & (_at(segment_ids, before) == _at(prefix.ids, prefix.start[..., None]))
    u = jnp.where((known & (before >= 0))[..., None], (b * x).astype(jnp.float32), 0.0)
    # taps_of[i, n] = kernel[k-2-i-n], 0 where a tap does not reach so far.
    place = taps - 2 - near[:, None] - near
    taps_of = jnp.where((place >= 0)[..., None], kernel.astype(jnp.float32)[jnp.maximum(place, 0)], 0.0)
    _, c, _ = _gates_at(gates, at)
    more = c * jnp.einsum("ind,rmnd->rmid", taps_of, u).astype(y.dtype)
    own = continued[..., None] & (_at(segment_ids, at) == prefix.own[..., None]) & (at < y.shape[1])
    return jax.vmap(_added)(y, jnp.where(own, at, y.shape[1]), more)


def _at(x: Array, index: Int[Array, "R M n"]) -> Array:
    """`x[r, index[r]]`, of the nearest position where there is none."""
    return jax.vmap(lambda row, at: row[at])(x, jnp.clip(index, 0, x.shape[1] - 1))


def _added(row: Float[Array, "S D"], index: Int[Array, "M n"], more: Float[Array, "M n D"]) -> Float[Array, "S D"]:
    return row.at[index].add(more, mode="drop")


def _gates_at(gates: Array, index: Int[Array, "R M n"]) -> tuple[Array, Array, Array]:
    picked = _at(gates, index)
    return picked[..., 0, :], picked[..., 1, :], picked[..., 2, :]
