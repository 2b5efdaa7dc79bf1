"""Attention in plain XLA: query chunks against a static window of keys, recomputed in the backward pass."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

_BANDS = 4
_HIDDEN = -1e30


def xla_attention(
    q: Float[Array, "R S H h"],
    k: Float[Array, "R S G h"],
    v: Float[Array, "R S G h"],
    segment_ids: Int[Array, "R S"],
    *,
    key_ids: Int[Array, "R S"] | None = None,
    causal: bool = True,
    max_segment: int | None = None,
    window: int | None = None,
    chunk: int | None = None,
) -> Float[Array, "R S H h"]:
    """See `jaxpo.ops.attention.attention`; `chunk` is the number of queries that are attended at once.

    With a short reach (segment or window) each chunk meets the same number of key chunks, stacked beforehand as the
    inputs of a scan: their cotangents leave the scan as stacked outputs, so the backward is linear in S as well. With a
    reach of nearly S, a few groups of chunks meet one prefix each, which skips most of the hidden upper triangle.
    """
    rows, length, heads, width = q.shape
    groups = k.shape[2]
    reach = min(length, max_segment or length, window or length)
    chunk = min(chunk or _chunk_size(length, reach), length)
    pad = -length % chunk
    q, k, v = (jnp.pad(x, ((0, 0), (0, pad), (0, 0), (0, 0))) for x in (q, k, v))
    segment_ids = jnp.pad(segment_ids, ((0, 0), (0, pad)))
    key_ids = segment_ids if key_ids is None else jnp.pad(key_ids, ((0, 0), (0, pad)))
    q = q.reshape(rows, length + pad, groups, heads // groups, width).transpose(0, 2, 3, 1, 4)
    k, v = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)
    chunks, before = (length + pad) // chunk, -(-(reach - 1) // chunk)
    spread = before if causal else 2 * before
    rule = _Rule(causal, window)
    if spread + 1 >= chunks or 4 * (spread + 1) > 3 * chunks:
        out = _prefixes(q, k, v, segment_ids, key_ids, chunk, rule)
    else:
        out = _windowed(q, k, v, segment_ids, key_ids, chunk, before, rule)
    out = out.transpose(0, 3, 1, 2, 4).reshape(rows, length + pad, heads, width)
    return out[:, :length]


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

    def seen(self, q_segments: Array, key_ids: Array, q_index: Array, k_index: Array) -> Bool[Array, "R C W"]:
        distance = q_index[:, None] - k_index[None, :]
        allowed = distance >= 0 if self.causal else jnp.ones_like(distance, dtype=bool)
        if self.window is not None:
            allowed &= jnp.abs(distance) < self.window
        same = q_segments[:, :, None] == key_ids[:, None, :]
        return same & (q_segments != 0)[:, :, None] & allowed


def _chunk_size(length: int, reach: int) -> int:
    """Queries per chunk: half the reach in a window (which then has 1.5 times the keys needed), within bounds.

    Small chunks keep the scores in a CPU's cache (S 1024: 64 was twice as fast as 256); accelerators want larger
    products.
    """
    if length <= 128:
        return length
    largest = 64 if jax.default_backend() == "cpu" else 512
    half = 1 << max(reach // 2 - 1, 1).bit_length()
    return max(16, min(largest, half, -(-length // (2 * _BANDS))))


def _prefixes(q: Array, k: Array, v: Array, segments: Array, key_ids: Array, chunk: int, rule: _Rule) -> Array:
    """Causal attention by groups of query chunks, each group against the prefix that its last chunk can see.

    A loop inside each group, rather than one straight line, keeps one chunk's scores alive at a time: XLA's CPU backend
    merges recomputation with the forward pass wherever both stand in straight-line code.
    """
    rows, groups, members, length, width = q.shape
    index = jnp.arange(length)
    outs = []
    for low, high in _bands(length // chunk):
        here, seen = slice(low * chunk, high * chunk), high * chunk if rule.causal else length

        @jax.checkpoint
        def block(args: tuple[Array, ...], k: Array, v: Array, key_ids: Array, k_index: Array) -> Array:
            q, q_segments, q_index = args
            return attend(q, k, v, rule.seen(q_segments, key_ids, q_index, k_index))

        keys = k[:, :, :seen], v[:, :, :seen], key_ids[:, :seen], index[:seen]
        stacked = _split(q[:, :, :, here], 3, chunk), _split(segments[:, here], 1, chunk), _split(index[here], 0, chunk)
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
    q: Array, k: Array, v: Array, segments: Array, key_ids: Array, chunk: int, before: int, rule: _Rule
) -> Array:
    rows, groups, members, length, width = q.shape
    chunks, after = length // chunk, 0 if rule.causal else before
    index = jnp.arange(length)

    def windows(x: Array, axis: int) -> Array:
        parts = _split(x, axis, chunk)
        parts = jnp.pad(parts, ((before, after), *((0, 0),) * (parts.ndim - 1)))
        return jnp.concatenate([parts[w : w + chunks] for w in range(before + 1 + after)], axis=axis + 1)

    @jax.checkpoint
    def block(args: tuple[Array, ...]) -> Array:
        q, k, v, q_segments, key_ids, q_index, k_index = args
        return attend(q, k, v, rule.seen(q_segments, key_ids, q_index, k_index))

    stacked = (
        _split(q, 3, chunk),
        windows(k, 2),
        windows(v, 2),
        _split(segments, 1, chunk),
        windows(key_ids, 1),
        _split(index, 0, chunk),
        windows(index, 0),
    )
    out = lax.map(block, stacked)
    return jnp.moveaxis(out, 0, 3).reshape(rows, groups, members, length, width)
