"""Attention in plain XLA: query chunks against a static window of keys, recomputed in the backward pass."""

from __future__ import annotations

import functools
import itertools
import operator

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

_BANDS = 4
_HIDDEN = -1e30
_SCORES = 1 << 22


def xla_attention(
    q: Float[Array, "R S H h"],
    k: Float[Array, "R S G h"],
    v: Float[Array, "R S G h"],
    segment_ids: Int[Array, "R S"],
    *,
    before: int = 0,
    key_ids: Int[Array, "R S"] | None = None,
    causal: bool = True,
    max_segment: int | None = None,
    window: int | None = None,
    prefix_ids: Int[Array, "R S"] | None = None,
    chunk: int | None = None,
) -> Float[Array, "R S H h"]:
    """See `jaxpo.ops.attention.attention`; `chunk` is the number of queries that are attended at once.

    With a short reach (segment or window) each chunk meets the same number of key chunks, stacked beforehand as the
    inputs of a scan: their cotangents leave the scan as stacked outputs, so the backward is linear in S as well. With a
    reach of nearly S, a few groups of chunks meet one prefix each, which skips most of the hidden upper triangle.

    Args:
      before: keys before that of the first query: there may be more keys than queries, and then `key_ids` are given.
    """
    rows, length, heads, width = q.shape
    groups, keys = k.shape[2], k.shape[1]
    reach = min(keys, max_segment or keys, window or keys)
    chunk = min(chunk or _chunk_size(length, keys, reach), length)
    key_ids = segment_ids if key_ids is None else key_ids
    back = -(-(reach - 1) // chunk)
    ahead = 0 if causal else back
    # In front so many keys that each chunk of queries has its own among whole chunks of keys.
    front = -before % chunk
    side, end = -length % chunk, -(keys + front) % chunk
    q, k, v = (_pad(x, *sides) for x, sides in ((q, (0, side)), (k, (front, end)), (v, (front, end))))
    query_ids = jnp.stack([segment_ids] if prefix_ids is None else [segment_ids, prefix_ids], axis=-1)
    query_ids, key_ids = _pad(query_ids, 0, side), _pad(key_ids, front, end)
    q = q.reshape(rows, length + side, groups, heads // groups, width).transpose(0, 2, 3, 1, 4)
    k, v = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)
    chunks, first, rule = k.shape[2] // chunk, (before + front) // chunk, _Rule(causal, window)
    if back + ahead + 1 >= chunks or 4 * (back + ahead + 1) > 3 * chunks:
        out = _prefixes(q, k, v, query_ids, key_ids, chunk, first, rule)
    else:
        out = _windowed(q, k, v, query_ids, key_ids, chunk, first, (back, ahead), rule)
    out = out.transpose(0, 3, 1, 2, 4).reshape(rows, length + side, heads, width)
    return out[:, :length]


def _pad(x: Array, front: int, end: int) -> Array:
    return jnp.pad(x, ((0, 0), (front, end), *((0, 0),) * (x.ndim - 2)))


def attend(
    q: Float[Array, "R G M C h"], k: Float[Array, "R G W h"], v: Float[Array, "R G W h"], seen: Bool[Array, "R C W"]
) -> Float[Array, "R G M C h"]:
    """One block of softmax attention in float32; a query that sees nothing returns zeros, with zero gradient."""
    scores = jnp.einsum("rgmch,rgwh->rgmcw", q, k, preferred_element_type=jnp.float32) * (q.shape[-1] ** -0.5)
    seen = seen[:, None, None]
    scores = jnp.where(seen, scores, _HIDDEN)
    top = lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    weights = jnp.where(seen, jnp.exp(scores - top), 0.0)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    out = jnp.einsum("rgmcw,rgwh->rgmch", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return (out / jnp.where(total > 0, total, 1.0)).astype(q.dtype)


class _Rule:
    """Which key positions a query position may see."""

    def __init__(self, causal: bool, window: int | None):
        self.causal, self.window = causal, window

    def seen(self, query_ids: Array, key_ids: Array, q_index: Array, k_index: Array) -> Bool[Array, "R C W"]:
        distance = q_index[:, None] - k_index[None, :]
        allowed = distance >= 0 if self.causal else jnp.ones_like(distance, dtype=bool)
        if self.window is not None:
            allowed &= jnp.abs(distance) < self.window
        # Of the ids that a query query_ids for: its segment's, and that of what its segment continues.
        each = [query_ids[:, :, i, None] for i in range(query_ids.shape[-1])]
        asked = [(ids == key_ids[:, None, :]) & (ids != 0) for ids in each]
        return functools.reduce(operator.or_, asked) & allowed


def _chunk_size(length: int, keys: int, reach: int) -> int:
    """Queries per chunk: half the reach in a window (which then has 1.5 times the keys needed), within bounds.

    Small chunks keep the scores in a CPU's cache (S 1024: 64 was twice as fast as 256); accelerators want larger
    products, as long as the scores of a head stay below `_SCORES`.
    """
    if length <= 128:
        return length
    largest = min(64 if jax.default_backend() == "cpu" else 512, _SCORES // min(keys, 2 * reach))
    half = 1 << max(reach // 2 - 1, 1).bit_length()
    return max(16, min(largest, half, -(-length // (2 * _BANDS))))


def _prefixes(
    q: Array, k: Array, v: Array, query_ids: Array, key_ids: Array, chunk: int, first: int, rule: _Rule
) -> Array:
    """Causal attention by groups of query chunks, each group against the prefix that its last chunk can see.

    A loop inside each group, rather than one straight line, keeps one chunk's scores alive at a time: XLA's CPU backend
    merges recomputation with the forward pass wherever both stand in straight-line code.

    Args:
      first: chunks of keys before that of the first query.
    """
    rows, groups, members, length, width = q.shape
    q_index, k_index = first * chunk + jnp.arange(length), jnp.arange(k.shape[2])
    outs = []
    for low, high in _bands(length // chunk):
        here, seen = slice(low * chunk, high * chunk), (first + high) * chunk if rule.causal else k.shape[2]

        @jax.checkpoint
        def block(args: tuple[Array, ...], k: Array, v: Array, key_ids: Array, k_index: Array) -> Array:
            q, query_ids, q_index = args
            return attend(q, k, v, rule.seen(query_ids, key_ids, q_index, k_index))

        keys = k[:, :, :seen], v[:, :, :seen], key_ids[:, :seen], k_index[:seen]
        stacked = (
            _split(q[:, :, :, here], 3, chunk),
            _split(query_ids[:, here], 1, chunk),
            _split(q_index[here], 0, chunk),
        )
        out = lax.map(lambda args, block=block, keys=keys: block(args, *keys), stacked)
        outs.append(jnp.moveaxis(out, 0, 3).reshape(rows, groups, members, (high - low) * chunk, width))
    return jnp.concatenate(outs, axis=3)


def _bands(chunks: int) -> list[tuple[int, int]]:
    """At most `_BANDS` nearly equal ranges of two chunks or more: a loop of one pass becomes straight-line code."""
    bands = max(1, min(_BANDS, chunks // 2))
    return list(itertools.pairwise(round(i * chunks / bands) for i in range(bands + 1)))


def _split(x: Array, axis: int, chunk: int) -> Array:
    """Cut an axis into chunks and bring their number to the front."""
    parts = x.reshape(*x.shape[:axis], x.shape[axis] // chunk, chunk, *x.shape[axis + 1 :])
    return jnp.moveaxis(parts, axis, 0)


def _windowed(
    q: Array,
    k: Array,
    v: Array,
    query_ids: Array,
    key_ids: Array,
    chunk: int,
    first: int,
    spread: tuple[int, int],
    rule: _Rule,
) -> Array:
    """Each chunk of queries against its own chunk of keys and so many before and after it (`spread`)."""
    rows, groups, members, length, width = q.shape
    chunks, (back, ahead) = length // chunk, spread
    q_index, k_index = first * chunk + jnp.arange(length), jnp.arange(k.shape[2])
    missing = max(0, back - first), max(0, first + chunks + ahead - k.shape[2] // chunk)
    begin = first - back + missing[0]

    def windows(x: Array, axis: int) -> Array:
        parts = _split(x, axis, chunk)
        parts = jnp.pad(parts, (missing, *((0, 0),) * (parts.ndim - 1)))
        places = range(begin, begin + back + 1 + ahead)
        return jnp.concatenate([parts[w : w + chunks] for w in places], axis=axis + 1)

    @jax.checkpoint
    def block(args: tuple[Array, ...]) -> Array:
        q, k, v, query_ids, key_ids, q_index, k_index = args
        return attend(q, k, v, rule.seen(query_ids, key_ids, q_index, k_index))

    stacked = (
        _split(q, 3, chunk),
        windows(k, 2),
        windows(v, 2),
        _split(query_ids, 1, chunk),
        windows(key_ids, 1),
        _split(q_index, 0, chunk),
        windows(k_index, 0),
    )
    out = lax.map(block, stacked)
    return jnp.moveaxis(out, 0, 3).reshape(rows, groups, members, length, width)
