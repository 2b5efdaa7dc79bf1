"""cuDNN's fused attention over packed rows. Tested by its arguments alone: no GPU has run it yet."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxpo.errors import BackendError


def cudnn_attention(
    q: Float[Array, "R S H h"],
    k: Float[Array, "R S G h"],
    v: Float[Array, "R S G h"],
    segment_ids: Int[Array, "R S"],
    *,
    key_ids: Int[Array, "R S"] | None = None,
    causal: bool = True,
    max_segment: int | None = None,
    window: int | None = None,
    most: int = 128,
) -> Float[Array, "R S H h"]:
    """See `jaxpo.ops.attention.attention`.

    cuDNN is told where each segment starts and how long it is. Its statistics of the softmax take `4 R most H S` bytes.

    Args:
      key_ids: must be None: cuDNN takes segments whole.
      most: segments of a row that there is room for; a row with more becomes NaN, so that training stops.
    """
    del max_segment  # each segment is a sequence of its own
    assert key_ids is None, "refused before"
    assert causal or window is None, "refused before"
    kernel, kinds = _private()
    lengths, offsets = sequences(segment_ids, most)
    real = (segment_ids != 0)[..., None, None]
    # What stands between the segments is written by nobody: neither the output nor the gradients there mean anything.
    q, k, v = (jnp.where(real, x, 0) for x in (q, k, v))
    out = kernel(
        q,
        k,
        v,
        q_seqlen=lengths,
        kv_seqlen=lengths,
        q_offsets=offsets,
        kv_offsets=offsets,
        scale=q.shape[-1] ** -0.5,
        mask_type=kinds.PADDING_CAUSAL if causal else kinds.PADDING,
        sliding_window_length=window,
        qkv_layout="BTNH",
    )
    out = jnp.where(real, out, 0)
    fits = jnp.sum(_starts(segment_ids), axis=1) <= most
    return jnp.where(fits[:, None, None, None], out, jnp.nan)


def sequences(segment_ids: Int[Array, "R S"], most: int) -> tuple[Int[Array, "R most"], Int[Array, "R most+1"]]:
    """Length and first position of every segment of a row, in order; -1 where there is none (and last of the firsts).

    Segments after the first `most` are left out.
    """
    rows, length = segment_ids.shape
    starts = _starts(segment_ids)
    number = jnp.where(segment_ids != 0, jnp.cumsum(starts, axis=1) - 1, most)
    lengths = jnp.zeros((rows, most), jnp.int32).at[jnp.arange(rows)[:, None], number].add(1, mode="drop")
    at = jnp.sort(jnp.where(starts, jnp.arange(length), length), axis=1)[:, :most].astype(jnp.int32)
    at = jnp.pad(at, ((0, 0), (0, most + 1 - at.shape[1])), constant_values=length)
    at = at.at[:, most].set(length)
    return jnp.where(lengths > 0, lengths, -1), jnp.where(at < length, at, -1)


def _starts(segment_ids: Int[Array, "R S"]) -> Array:
    """Where a segment begins."""
    before = jnp.pad(segment_ids, ((0, 0), (1, 0)))[:, :-1]
    return (segment_ids != before) & (segment_ids != 0)


@functools.cache
def _private() -> tuple[Callable[..., Array], Any]:
    """JAX's call of cuDNN, which is not public: any version may move it."""
    try:
        from jax._src.cudnn.fused_attention_stablehlo import MaskType, dot_product_attention
    except ImportError as error:
        raise BackendError(f'this JAX has no packed cuDNN attention ({error}); take "pallas" or "xla"') from error
    return dot_product_attention, MaskType
