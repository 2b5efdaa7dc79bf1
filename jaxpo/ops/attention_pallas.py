"""Fused attention as a Pallas kernel for NVIDIA GPUs (through Triton), forward and backward."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float, Int

from jaxpo.ops import attention_pallas_kernels as kernels
from jaxpo.ops.attention_pallas_kernels import Rule
from jaxpo.ops.attention_reach import asking, reachable, span

_LEAST = 16  # the smallest side of a product on tensor cores


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Positions per block, powers of two of at least 16, and Triton's knobs: a matter of speed only.

    Attributes:
      queries, keys: of the forward pass.
      back_queries, back_keys: of both backward passes.
      warps, stages: warps per program, and depth of the pipeline of loads.
    """

    queries: int = 128
    keys: int = 64
    back_queries: int = 64
    back_keys: int = 64
    warps: int = 4
    stages: int = 2


def pallas_attention(
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
    blocks: Blocks | None = None,
    interpret: bool = False,
) -> Float[Array, "R S H h"]:
    """See `jaxpo.ops.attention.attention`.

    Blocks that no segment, order or window lets meet are not visited, so `max_segment` is not needed. Keys are not
    repeated for the heads that share them. float32 products are not rounded to TensorFloat-32.

    Args:
      before: see `jaxpo.ops.attention_xla.xla_attention`.
      blocks: sizes; None = fitted to the type and the width of a head.
      interpret: run the kernels as plain JAX, on any platform: slow, for tests.
    """
    del max_segment  # the ids bound what is visited
    length, width = q.shape[1], q.shape[3]
    blocks = _fitting(blocks or _default(q.dtype, width), length)
    largest = max(blocks.queries, blocks.keys, blocks.back_queries, blocks.back_keys)
    side, end, more = -length % largest, -k.shape[1] % largest, max(_LEAST, pl.next_power_of_2(width)) - width
    q, k, v = (
        jnp.pad(x.astype(q.dtype), ((0, 0), (0, n), (0, 0), (0, more))) for x, n in ((q, side), (k, end), (v, end))
    )
    key_ids = segment_ids if key_ids is None else key_ids
    ids = (asking(segment_ids), side, -1), (key_ids.astype(jnp.int32), end, 0)
    q_ids, k_ids = (jnp.pad(x, ((0, 0), (0, n)), constant_values=fill) for x, n, fill in ids)
    out = _attend(q, k, v, q_ids, k_ids, Rule(causal, window, width, before), blocks, interpret)
    return out[:, :length, :, :width]


def _default(dtype: jnp.dtype, width: int) -> Blocks:
    """Blocks whose operands fit the registers and the shared memory of a multiprocessor."""
    if jnp.dtype(dtype).itemsize == 4:
        return Blocks(32, 32, 32, 16) if width <= 64 else Blocks(16, 32, 16, 16)
    return Blocks() if width <= 64 else Blocks(64, 64, 32, 32) if width <= 128 else Blocks(32, 32, 32, 16)


def _fitting(blocks: Blocks, length: int) -> Blocks:
    """None larger than a row needs."""
    most = max(_LEAST, pl.next_power_of_2(length))
    names = ("queries", "keys", "back_queries", "back_keys")
    return dataclasses.replace(blocks, **{name: min(getattr(blocks, name), most) for name in names})


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def _attend(
    q: Array, k: Array, v: Array, q_ids: Array, k_ids: Array, rule: Rule, blocks: Blocks, interpret: bool
) -> Array:
    return _forward(q, k, v, q_ids, k_ids, rule, blocks, interpret)[0]


def _whole(length: int, width: int, of: int) -> pl.BlockSpec:
    """All positions of one head; program (block, head, row) of query heads, `of` of which share it."""
    return pl.BlockSpec((None, length, None, width), lambda i, h, r: (r, 0, jax.lax.div(h, of), 0))


def _block(size: int, width: int) -> pl.BlockSpec:
    return pl.BlockSpec((None, size, None, width), lambda i, h, r: (r, i, h, 0))


def _row(length: int) -> pl.BlockSpec:
    return pl.BlockSpec((None, length), lambda i, h, r: (r, 0))


def _part(size: int) -> pl.BlockSpec:
    return pl.BlockSpec((None, size), lambda i, h, r: (r, i))


def _statistic(size: int) -> pl.BlockSpec:
    return pl.BlockSpec((None, None, size), lambda i, h, r: (r, h, i))


_SCALAR = pl.BlockSpec((None, None), lambda i, h, r: (r, i))


def _reachable(q_ids: Array, k_ids: Array, blocks: tuple[int, int], rule: Rule) -> Array:
    return reachable(q_ids, k_ids, blocks, causal=rule.causal, window=rule.window, before=rule.before)


def _knobs(blocks: Blocks) -> triton.CompilerParams:
    return triton.CompilerParams(num_warps=blocks.warps, num_stages=blocks.stages)


def _forward(
    q: Array, k: Array, v: Array, q_ids: Array, k_ids: Array, rule: Rule, blocks: Blocks, interpret: bool
) -> tuple[Array, Array]:
    rows, length, heads, width = q.shape
    m, n = blocks.queries, blocks.keys
    reach = span(_reachable(q_ids, k_ids, (m, n), rule))
    keys = _whole(k.shape[1], width, heads // k.shape[2])
    return pl.pallas_call(
        functools.partial(kernels.forward, rule=rule, keys=n),
        grid=(length // m, heads, rows),
        in_specs=[_SCALAR, _SCALAR, _part(m), _row(k.shape[1]), _block(m, width), keys, keys],
        out_specs=[_block(m, width), _statistic(m)],
        out_shape=[
            jax.ShapeDtypeStruct(q.shape, q.dtype),
            jax.ShapeDtypeStruct((rows, heads, length), jnp.float32),
        ],
        compiler_params=_knobs(blocks),
        interpret=interpret,
        name="attention_forward",
    )(*reach, q_ids, k_ids, q, k, v)


def _attend_forward(
    q: Array, k: Array, v: Array, q_ids: Array, k_ids: Array, rule: Rule, blocks: Blocks, interpret: bool
) -> tuple[Array, tuple[Array, ...]]:
    out, lse = _forward(q, k, v, q_ids, k_ids, rule, blocks, interpret)
    return out, (q, k, v, q_ids, k_ids, out, lse)


def _attend_backward(
    rule: Rule, blocks: Blocks, interpret: bool, saved: tuple[Array, ...], d_out: Array
) -> tuple[Array | None, ...]:
    q, k, v, q_ids, k_ids, out, lse = saved
    delta = jnp.sum(out.astype(jnp.float32) * d_out.astype(jnp.float32), axis=-1).transpose(0, 2, 1)
    meet = _reachable(q_ids, k_ids, (blocks.back_queries, blocks.back_keys), rule)
    arrays = q_ids, k_ids, q, k, v, d_out, lse, delta
    dq = _queries_back(span(meet), arrays, rule, blocks, interpret)
    dk, dv = _keys_back(span(meet.swapaxes(1, 2)), arrays, rule, blocks, interpret)
    return dq, dk, dv, None, None


def _queries_back(
    reach: tuple[Array, Array], arrays: tuple[Array, ...], rule: Rule, blocks: Blocks, interpret: bool
) -> Array:
    q, k = arrays[2:4]
    rows, length, heads, width = q.shape
    m = blocks.back_queries
    keys, own, statistic = _whole(k.shape[1], width, heads // k.shape[2]), _block(m, width), _statistic(m)
    return pl.pallas_call(
        functools.partial(kernels.backward_queries, rule=rule, keys=blocks.back_keys),
        grid=(length // m, heads, rows),
        in_specs=[_SCALAR, _SCALAR, _part(m), _row(k.shape[1]), own, keys, keys, own, statistic, statistic],
        out_specs=own,
        out_shape=jax.ShapeDtypeStruct(q.shape, q.dtype),
        compiler_params=_knobs(blocks),
        interpret=interpret,
        name="attention_backward_queries",
    )(*reach, *arrays)


def _keys_back(
    reach: tuple[Array, Array], arrays: tuple[Array, ...], rule: Rule, blocks: Blocks, interpret: bool
) -> tuple[Array, Array]:
    q, k = arrays[2:4]
    rows, length, heads, width = q.shape
    groups, n = k.shape[2], blocks.back_keys
    share = heads // groups
    queries = pl.BlockSpec((None, length, share, width), lambda j, g, r: (r, 0, g, 0))
    statistic = pl.BlockSpec((None, share, length), lambda j, g, r: (r, g, 0))
    own = _block(n, width)
    return pl.pallas_call(
        functools.partial(kernels.backward_keys, rule=rule, queries=blocks.back_queries),
        grid=(k.shape[1] // n, groups, rows),
        in_specs=[_SCALAR, _SCALAR, _row(length), _part(n), queries, own, own, queries, statistic, statistic],
        out_specs=[own, own],
        out_shape=[jax.ShapeDtypeStruct(k.shape, k.dtype)] * 2,
        compiler_params=_knobs(blocks),
        interpret=interpret,
        name="attention_backward_keys",
    )(*reach, *arrays)


_attend.defvjp(_attend_forward, _attend_backward)
