"""Attention over a cache for CPUs: each row meets the blocks of keys that it has reached, and no others.

A running softmax (Milakov & Gimelshein 2018, arXiv 1805.02867) makes the number of blocks a matter of the data: work
and traffic follow what a row has seen, not the cache's capacity. A block that a query does not see adds exact zeros,
and rows run one after another, each with its own blocks, so that no row's bits depend on another's length.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxpo.errors import BackendError

_HIDDEN = -1e30
# A block of keys and its scores stay in a core's second cache: 64 was as fast, 256 up to a third slower. A row of one
# query, as in writing, meets half as many for nothing with blocks of 64, and takes up to a third less time.
_KEYS, _KEYS_OF_ONE = 128, 64
_QUERIES = 128


def blocks_cached(
    q: Float[Array, "B s H h"],
    k: Float[Array, "B T G h"],
    v: Float[Array, "B T G h"],
    positions: Int[Array, "B s"],
    slots: Int[Array, "B T"] | None,
    *,
    window: int | None = None,
    keys: int | None = None,
    queries: int = _QUERIES,
) -> Float[Array, "B s H h"]:
    """See `jaxpo.ops.attention.cached_attention`.

    Args:
      keys: slots per block; a matter of speed only, and None the fastest.
      queries: positions per part of a row's queries, likewise.
    """
    batch, steps, heads, width = q.shape
    groups = k.shape[2]
    asked = q.astype(jnp.float32) * width**-0.5
    keys = keys or (_KEYS_OF_ONE if steps == 1 else _KEYS)
    if steps == 1:
        asked = _as_one_group(asked, groups)
    # Key heads side by side, as they lie in memory: XLA copies a whole cache that has an axis of one head.
    k, v = (x.reshape(*x.shape[:2], groups * width) for x in (k, v))
    static = (1 if steps == 1 else groups, window, min(keys, k.shape[1]), min(queries, steps))
    found = _run(asked, k, v, positions, slots, static)
    if steps == 1:
        # Of every query head, the part of the row that is its key head's.
        parts = found.reshape(batch, steps, groups, heads // groups, groups, width)
        found = jnp.moveaxis(jnp.diagonal(parts, axis1=2, axis2=4), -1, 2)
    return found.reshape(batch, steps, heads, width).astype(q.dtype)


def _as_one_group(q: Float[Array, "B 1 H h"], groups: int) -> Float[Array, "B 1 H Gh"]:
    """Every head as wide as all key heads side by side, and zero outside its own one's part.

    One query against a block of keys is so small a product that bringing the heads to the front costs more than
    multiplying by zeros: one product of all heads reads the cache as it lies, and twice as fast.
    """
    batch, _, heads, width = q.shape
    own = jnp.eye(groups, dtype=q.dtype)[:, None, :, None]
    return (q.reshape(batch, groups, -1, 1, width) * own).reshape(batch, 1, heads, groups * width)


@functools.partial(jax.custom_jvp, nondiff_argnums=(5,))
def _run(
    q: Float[Array, "B s H h"],
    k: Float[Array, "B T Gh"],
    v: Float[Array, "B T Gh"],
    positions: Int[Array, "B s"],
    slots: Int[Array, "B T"] | None,
    static: tuple[Any, ...],
) -> Float[Array, "B s H h"]:
    """All rows in parts of `queries` queries, one part after another."""
    groups, window, keys, queries = static
    batch, steps, heads, width = q.shape
    more = -steps % queries
    q = jnp.pad(q, ((0, 0), (0, more), (0, 0), (0, 0)))
    # What is padded stands before everything and sees nothing.
    at = jnp.pad(positions, ((0, 0), (0, more)), constant_values=-1).reshape(-1, queries)
    parts = q.reshape(-1, queries, groups, heads // groups, width).transpose(0, 2, 3, 1, 4)
    row = jnp.arange(at.shape[0]) // (at.shape[0] // batch)

    def one(part: tuple[Array, Array, Array]) -> Array:
        return _part(*part, k, v, slots, window, keys)

    found = lax.map(one, (parts, at, row))
    return found.transpose(0, 3, 1, 2, 4).reshape(batch, -1, heads, width)[:, :steps]


@_run.defjvp
def _no_gradient(static: tuple[Any, ...], primals: Any, tangents: Any) -> Any:
    del static, primals, tangents
    raise BackendError(
        'cached_attention implementation "blocks" has no gradient; take "xla", or attention over whole rows'
    )


def _part(
    q: Float[Array, "G M c h"],
    at: Int[Array, "c"],
    row: Int[Array, ""],
    k: Float[Array, "B T Gh"],
    v: Float[Array, "B T Gh"],
    slots: Int[Array, "B T"] | None,
    window: int | None,
    keys: int,
) -> Float[Array, "G M c h"]:
    """Some queries of one row against the blocks that the first to the last of them can see."""
    groups, members, count, width = q.shape
    flat = q.reshape(groups, members * count, width)

    def block(store: Array, first: Array) -> Array:
        taken = lax.dynamic_slice(store, (row, first, 0), (1, keys, store.shape[2]))
        return taken.reshape(keys, groups, width).transpose(1, 0, 2).astype(jnp.float32)

    def step(i: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        top, total, out = carry
        # The last block of a cache that is no multiple of it begins earlier, and leaves out what came before.
        first = jnp.minimum(i * keys, k.shape[1] - keys)
        index = first + jnp.arange(keys)
        held = index if slots is None else lax.dynamic_slice(slots, (row, first), (1, keys))[0]
        seen = jnp.tile(_seen(at, held, window) & (index >= i * keys), (members, 1))
        scores = jnp.where(seen, jnp.einsum("gqh,gkh->gqk", flat, block(k, first)), _HIDDEN)
        higher = jnp.maximum(top, jnp.max(scores, axis=-1, keepdims=True))
        weights = jnp.where(seen, jnp.exp(scores - higher), 0.0)
        kept = jnp.exp(top - higher)
        out = out * kept + jnp.einsum("gqk,gkh->gqh", weights, block(v, first))
        return higher, total * kept + jnp.sum(weights, axis=-1, keepdims=True), out

    nothing = jnp.zeros((groups, members * count, 1), jnp.float32)
    begin, end = _all(at, k.shape[1], keys) if slots is not None else _reach(at, k.shape[1], window, keys)
    _, total, out = lax.fori_loop(begin, end, step, (nothing + _HIDDEN, nothing, jnp.zeros_like(flat)))
    return (out / jnp.where(total > 0, total, 1.0)).reshape(q.shape)


def _seen(at: Int[Array, "c"], held: Int[Array, "k"], window: int | None) -> Bool[Array, "c k"]:
    seen = (held >= 0) & (held <= at[:, None])
    return seen if window is None else seen & (held > at[:, None] - window)


def _all(at: Int[Array, "c"], slots: int, keys: int) -> tuple[Array, Array]:
    """Every block of keys, or none where no query is one."""
    return jnp.int32(0), jnp.where(jnp.max(at) < 0, 0, -(-slots // keys))


def _reach(at: Int[Array, "c"], slots: int, window: int | None, keys: int) -> tuple[Array, Array]:
    """First block of keys that some query sees, and the one after the last."""
    last = jnp.max(at)
    end = jnp.minimum(last // keys + 1, -(-slots // keys))
    first = jnp.min(jnp.where(at < 0, last, at))
    return jnp.zeros_like(end) if window is None else jnp.maximum(first - window + 1, 0) // keys, end
