"""Positions of a row that is spread over devices: a device's own, with those beside them from other devices."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxpo.sharding import axis_size, current_rules, fitting_spec

Axis = str | tuple[str, ...]


def position_axis(rows: int, length: int) -> tuple[Axis | None, int]:
    """The mesh axis over which the positions of `[rows, length]` lie, and its devices; (None, 1) where on one.

    A length that the devices do not divide stays whole on each of them.
    """
    active = current_rules()
    if active is None:
        return None, 1
    axis = fitting_spec((rows, length), ("batch", "sequence"))[1]
    devices = axis_size(active[0], axis)
    return (axis, devices) if devices > 1 else (None, 1)


def with_halo(x: Array, before: int, after: int, axis: Axis, devices: int) -> Array:
    """`[R, L, ...] -> [R, before + L + after, ...]` in a `shard_map` over `axis`: 0 beyond the ends of the row.

    A few hops to neighbours move only what is asked for; where that is most of the row, one gather moves all of it.
    """
    length = x.shape[1]
    hops = -(-before // length) - (-after // length)
    if hops <= 2 or 2 * (before + after) <= (devices - 1) * length:
        return jnp.concatenate([*from_left(x, before, axis, devices), x, *from_right(x, after, axis, devices)], axis=1)
    whole = lax.all_gather(x, axis, axis=1, tiled=True)
    padded = jnp.pad(whole, ((0, 0), (before, after), *((0, 0),) * (x.ndim - 2)))
    return lax.dynamic_slice_in_dim(padded, lax.axis_index(axis) * length, before + length + after, axis=1)


def from_left(x: Array, count: int, axis: Axis, devices: int) -> list[Array]:
    """The `count` positions before a device's own, in pieces; 0 where nobody sends any."""
    length, pieces = x.shape[1], []
    for hop in range(-(-count // length), 0, -1):
        piece = x[:, length - min(length, count - (hop - 1) * length) :]
        pieces.append(lax.ppermute(piece, axis, [(i, i + hop) for i in range(devices - hop)]))
    return pieces


def from_right(x: Array, count: int, axis: Axis, devices: int) -> list[Array]:
    """The `count` positions after a device's own, in pieces; 0 where nobody sends any."""
    length, pieces = x.shape[1], []
    for hop in range(1, -(-count // length) + 1):
        piece = x[:, : min(length, count - (hop - 1) * length)]
        pieces.append(lax.ppermute(piece, axis, [(i + hop, i) for i in range(devices - hop)]))
    return pieces
