"""Splash attention for TPU: JAX's Pallas kernels, given the ids and the reach of packed rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jaxtyping import Array, Float, Int

from jaxpo.ops.attention_reach import asking

_LANES = 128
_NOTHING = -1e30  # the score of seeing nothing: below every real one, above that of a hidden key


def splash_attention(
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
    block: int = 512,
    interpret: bool = False,
) -> Float[Array, "R S H h"]:
    """See `jaxpo.ops.attention.attention`.

    Blocks that order, window and `max_segment` rule out are not visited; what segments hide beyond that is masked. A
    sink of score -1e30 takes part in every softmax: next to a key that is seen its weight is exactly 0, and a query
    that sees none gives it everything, so that its output and its gradient are exactly 0.

    Args:
      before: see `jaxpo.ops.attention_xla.xla_attention`.
      block: most positions of queries and of keys per block, a multiple of 128; a matter of speed only.
      interpret: run the kernels as plain JAX, on any platform: slow, for tests.
    """
    (length, heads), keys = q.shape[1:3], k.shape[1]
    block = min(block, _LANES * -(-length // _LANES))
    side, end = -length % block, -keys % block
    reach = min(keys + end, max_segment or keys + end, window or keys + end)
    mask = _mask((length + side, keys + end), causal, reach, before)
    kernel = _kernel(heads, mask, block, interpret)
    # The scale is rounded once, with the queries: exact where it is a power of two (h = 64).
    q = (q.astype(jnp.float32) * q.shape[3] ** -0.5).astype(q.dtype)
    q, k, v = (
        jnp.pad(x, ((0, 0), (0, n), (0, 0), (0, 0))).transpose(0, 2, 1, 3) for x, n in ((q, side), (k, end), (v, end))
    )
    key_ids = segment_ids if key_ids is None else key_ids
    ids = splash.SegmentIds(
        jnp.pad(asking(segment_ids), ((0, 0), (0, side)), constant_values=-1),
        jnp.pad(key_ids.astype(jnp.int32), ((0, 0), (0, end))),
    )
    sinks = jnp.full((heads,), _NOTHING, jnp.float32)

    def row(q: Array, k: Array, v: Array, ids: splash.SegmentIds) -> Array:
        out = kernel(q, k, v, ids, sinks)
        assert isinstance(out, jax.Array), "no residuals were asked for"
        return out

    out = jax.vmap(row)(q, k, v, ids)
    return out.transpose(0, 2, 1, 3)[:, :length]


def _mask(shape: tuple[int, int], causal: bool, reach: int, before: int) -> masks.Mask:
    """What order and reach leave of all pairs of queries and keys; computed in the kernel, block by block.

    Args:
      reach: positions, its own among them, that a query can see to either side.
      before: position of the first query among the keys.
    """
    if reach < shape[1]:
        return masks.LocalMask(shape, (reach - 1, 0 if causal else reach - 1), before)
    return masks.CausalMask(shape, before) if causal else masks.FullMask(shape)


def _kernel(heads: int, mask: masks.Mask, block: int, interpret: bool) -> splash.SplashAttentionKernel:
    """The forward and both backward kernels; heads that share a key read it where it lies."""
    sizes = splash.BlockSizes(
        block_q=block,
        block_kv=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_q_dq=block,
        block_kv_dq=block,
    )
    return splash.make_splash_mha(
        masks.MultiHeadMask([mask] * heads), block_sizes=sizes, head_shards=1, q_seq_shards=1, interpret=interpret
    )
