"""Attention in plain XLA: query chunks against a static window of keys, recomputed in the backward pass."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

_MAX_UNROLLED = 16
_HIDDEN = -1e30


def xla_attention(
    q: Float[Array, "R S H h"],
    k: Float[Array, "R S G h"],
    v: Float[Array, "R S G h"],
    segment_ids: Int[Array, "R S"],
    *,
    causal: bool = True,
    max_segment: int | None = None,
    window: int | None = None,
    chunk: int | None = None,
) -> Float[Array, "R S H h"]:
    """See `jaxpo.ops.attention.attention`; `chunk` is the number of queries that are attended at once.

    With a short reach (segment or window) each chunk meets the same number of key chunks, stacked beforehand as the
    inputs of a scan: their cotangents leave the scan as stacked outputs, so the backward is linear in S as well. With a
    reach of nearly S the loop is unrolled over prefixes `[0, (i+1) C)`, which skips the hidden upper triangle.
    """
    rows, length, heads, width = q.shape
    groups = k.shape[2]
    reach = min(length, max_segment or length, window or length)
    chunk = min(chunk or _chunk_size(length, reach), length)
    pad = -length % chunk
    q, k, v = (jnp.pad(x, ((0, 0), (0, pad), (0, 0), (0, 0))) for x in (q, k, v))
    segment_ids = jnp.pad(segment_ids, ((0, 0), (0, pad)))
    q = q.reshape(rows, length + pad, groups, heads // groups, width).transpose(0, 2, 3, 1, 4)
    k, v = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)
    chunks, before = (length + pad) // chunk, -(-(reach - 1) // chunk)
    spread = before if causal else 2 * before
    rule = _Rule(causal, window)
    if spread + 1 >= chunks or 4 * (spread + 1) > 3 * chunks:
        out = _unrolled(q, k, v, segment_ids, chunk, before, rule)
    else:
        out = _windowed(q, k, v, segment_ids, chunk, before, rule)
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

    def seen(self, q_segments: Array, k_segments: Array, q_index: Array, k_index: Array) -> Bool[Array, "R C W"]:
        distance = q_index[:, None] - k_index[None, :]
        allowed = distance >= 0 if self.causal else jnp.ones_like(distance, dtype=bool)
        if self.window is not None:
            allowed &= jnp.abs(distance) < self.window
        same = q_segments[:, :, None] == k_segments[:, None, :]
        return same & (q_segments != 0)[:, :, None] & allowed


def _chunk_size(length: int, reach: int) -> int:
    """Half the reach (window 1.5 times the need) between 64 and 512, larger if that would unroll too far."""
    if 4 * reach > 3 * length:
        return max(min(256, length), -(-length // _MAX_UNROLLED))
    return min(512, max(64, 1 << max(reach // 2 - 1, 1).bit_length()))


def _unrolled(q: Array, k: Array, v: Array, segments: Array, chunk: int, before: int, rule: _Rule) -> Array:
    chunks = q.shape[3] // chunk

    @jax.checkpoint
    def block(
        q: Array, k: Array, v: Array, q_segments: Array, k_segments: Array, q_index: Array, k_index: Array
    ) -> Array:
        return attend(q, k, v, rule.seen(q_segments, k_segments, q_index, k_index))

    index = jnp.arange(q.shape[3])
    outs = []
    for i in range(chunks):
        low = max(0, i - before) * chunk
        high = (i + 1 if rule.causal else min(chunks, i + 1 + before)) * chunk
        here, there = slice(i * chunk, (i + 1) * chunk), slice(low, high)
        outs.append(
            block(
                q[:, :, :, here],
                k[:, :, there],
                v[:, :, there],
                segments[:, here],
                segments[:, there],
                index[here],
                index[there],
            )
        )
    return jnp.concatenate(outs, axis=3) if chunks > 1 else outs[0]


def _windowed(q: Array, k: Array, v: Array, segments: Array, chunk: int, before: int, rule: _Rule) -> Array:
    rows, groups, members, length, width = q.shape
    chunks, after = length // chunk, 0 if rule.causal else before
    index = jnp.arange(length)

    def split(x: Array, axis: int) -> Array:
        parts = x.reshape(*x.shape[:axis], chunks, chunk, *x.shape[axis + 1 :])
        return jnp.moveaxis(parts, axis, 0)

    def windows(x: Array, axis: int) -> Array:
        parts = split(x, axis)
        parts = jnp.pad(parts, ((before, after), *((0, 0),) * (parts.ndim - 1)))
        return jnp.concatenate([parts[w : w + chunks] for w in range(before + 1 + after)], axis=axis + 1)

    @jax.checkpoint
    def block(args: tuple[Array, ...]) -> Array:
        q, k, v, q_segments, k_segments, q_index, k_index = args
        return attend(q, k, v, rule.seen(q_segments, k_segments, q_index, k_index))

    stacked = (
        split(q, 3),
        windows(k, 2),
        windows(v, 2),
        split(segments, 1),
        windows(segments, 1),
        split(index, 0),
        windows(index, 0),
    )
    out = lax.map(block, stacked)
    return jnp.moveaxis(out, 0, 3).reshape(rows, groups, members, length, width)
