"""Which blocks of keys a block of queries can reach, for kernels that visit no others."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

_NONE = jnp.iinfo(jnp.int32).max


def asking(segment_ids: Int[Array, "R S"]) -> Int[Array, "R S"]:
    """Ids of queries that equal a key's id where one sees the other: padding (0) becomes -1, which no key has."""
    return jnp.where(segment_ids == 0, -1, segment_ids).astype(jnp.int32)


def reachable(
    q_ids: Int[Array, "R S"],
    k_ids: Int[Array, "R W"],
    blocks: tuple[int, int],
    *,
    causal: bool,
    window: int | None,
    before: int = 0,
) -> Bool[Array, "R m n"]:
    """Whether some query of block i may see some key of block j; never False where one does.

    Ids meet when the ranges from the least to the greatest of both blocks do: tight for ids that grow along the row.

    Args:
      q_ids: `[R, S]` of `asking`.
      k_ids: `[R, W]`, 0 = never a key.
      blocks: positions per block of queries and of keys, divisors of S and of W.
      before: position of the first query among the keys.
    """
    (q_low, q_high), (k_low, k_high) = (_range(ids, n) for ids, n in zip((q_ids, k_ids), blocks, strict=True))
    meet = (q_low[:, :, None] <= k_high[:, None, :]) & (k_low[:, None, :] <= q_high[:, :, None])
    q_first, k_first = (jnp.arange(0, ids.shape[1], n) for ids, n in zip((q_ids, k_ids), blocks, strict=True))
    q_first += before
    q_last, k_last = q_first + blocks[0] - 1, k_first + blocks[1] - 1
    if causal:
        meet &= k_first <= q_last[:, None]
    if window is not None:
        meet &= (q_first[:, None] - k_last < window) & (k_first - q_last[:, None] < window)
    return meet


def _range(ids: Int[Array, "R S"], block: int) -> tuple[Int[Array, "R n"], Int[Array, "R n"]]:
    """Least and greatest positive id of each block; an empty range (greatest below least) where there is none."""
    ids = ids.reshape(ids.shape[0], -1, block)
    return jnp.min(jnp.where(ids > 0, ids, _NONE), axis=-1), jnp.max(ids, axis=-1)


def span(meet: Bool[Array, "... n"]) -> tuple[Int[Array, "..."], Int[Array, "..."]]:
    """First block that is met, and the one after the last; equal where none is."""
    count = meet.shape[-1]
    some = jnp.any(meet, axis=-1)
    first = jnp.where(some, jnp.argmax(meet, axis=-1), 0)
    end = jnp.where(some, count - jnp.argmax(meet[..., ::-1], axis=-1), 0)
    return first.astype(jnp.int32), end.astype(jnp.int32)
