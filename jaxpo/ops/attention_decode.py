"""Attention over a cache as a Pallas kernel for NVIDIA GPUs (through Triton): keys are split over programs.

A step of decoding has few queries and many keys: the programs of one key head each take a share of the keys, and what
they found is put together afterwards (flash-decoding: Dao et al. 2023). Generation takes no gradient, nor does this.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Bool, Float, Int

from jaxpo.errors import BackendError
from jaxpo.ops.attention_pallas_kernels import HIDDEN, LOG2_E, dot
from jaxpo.ops.attention_reach import span

_PROGRAMS = 256  # enough for the multiprocessors of a large GPU
_QUERIES = 64


def pallas_cached(
    q: Float[Array, "B s H h"],
    k: Float[Array, "B T G h"],
    v: Float[Array, "B T G h"],
    positions: Int[Array, "B s"],
    slots: Int[Array, "B T"] | None,
    *,
    window: int | None = None,
    keys: int = 64,
    splits: int | None = None,
    interpret: bool = False,
) -> Float[Array, "B s H h"]:
    """See `jaxpo.ops.attention.cached_attention`.

    The cache is read where it lies, once per key head, and only the blocks that some query of the row can see.

    Args:
      keys: positions per block of keys, a power of two of at least 16; a matter of speed only.
      splits: shares of the keys; None = as many as fill the GPU.
      interpret: run the kernel as plain JAX, on any platform: slow, for tests.
    """
    batch, steps, heads, width = q.shape
    slots_of, groups = k.shape[1:3]
    members = heads // groups
    rows = steps * members
    block = min(_QUERIES, max(16, pl.next_power_of_2(rows)))
    more, short = -rows % block, -slots_of % keys
    asked = q.reshape(batch, steps, groups, members, width).transpose(0, 2, 1, 3, 4).reshape(batch, groups, rows, width)
    asked = jnp.pad(asked, ((0, 0), (0, 0), (0, more), (0, 0)))
    at = jnp.pad(jnp.repeat(positions, members, axis=1), ((0, 0), (0, more)), constant_values=-1).astype(jnp.int32)
    held = jnp.broadcast_to(jnp.arange(slots_of), (batch, slots_of)) if slots is None else slots
    held = jnp.pad(held, ((0, 0), (0, short)), constant_values=-1).astype(jnp.int32)
    if splits is None:
        splits = max(1, min(held.shape[1] // keys, _PROGRAMS // (batch * groups * ((rows + more) // block))))
    shares = _shares(_met(at, held, block, keys, window), splits)
    out = _run(asked, k, v, at, held, shares, (window, block, keys, splits, interpret))
    out = out[:, :, :rows].reshape(batch, groups, steps, members, width).transpose(0, 2, 1, 3, 4)
    return out.reshape(batch, steps, heads, width)


def _met(at: Array, held: Array, block: int, keys: int, window: int | None) -> Bool[Array, "B m n"]:
    """Whether some query of a block may see some slot of a block of keys."""
    parts = at.reshape(at.shape[0], -1, block)
    last = jnp.max(parts, axis=-1)
    seen = (held >= 0)[:, None, :] & (held[:, None, :] <= last[..., None])
    if window is not None:
        first = jnp.min(jnp.where(parts < 0, last[..., None], parts), axis=-1)
        seen &= held[:, None, :] > first[..., None] - window
    return jnp.any(seen.reshape(*seen.shape[:2], -1, keys), axis=-1)


def _shares(met: Bool[Array, "B m n"], splits: int) -> tuple[Int[Array, "B m splits"], Int[Array, "B m splits"]]:
    """First block of keys of each share, and the one after its last."""
    first, end = span(met)
    each = (end - first + splits - 1) // splits
    begins = first[..., None] + each[..., None] * jnp.arange(splits, dtype=jnp.int32)
    ends = jnp.minimum(begins + each[..., None], end[..., None])
    return jnp.minimum(begins, ends), ends


@functools.partial(jax.custom_jvp, nondiff_argnums=(6,))
def _run(
    q: Array, k: Array, v: Array, at: Array, held: Array, shares: tuple[Array, Array], static: tuple[Any, ...]
) -> Float[Array, "B G n h"]:
    window, block, keys, splits, interpret = static
    batch, groups, rows, width = q.shape
    slots = k.shape[1]
    scalar = pl.BlockSpec((None, None, None), lambda s, i, g, b: (b, i, s))
    cache = pl.BlockSpec((None, slots, None, width), lambda s, i, g, b: (b, 0, g, 0))
    statistic = pl.BlockSpec((None, None, None, block), lambda s, i, g, b: (b, g, s, i))
    out, top, total = pl.pallas_call(
        functools.partial(_kernel, window=window, keys=keys, slots=slots),
        grid=(splits, rows // block, groups, batch),
        in_specs=[
            scalar,
            scalar,
            pl.BlockSpec((None, block), lambda s, i, g, b: (b, i)),
            pl.BlockSpec((None, held.shape[1]), lambda s, i, g, b: (b, 0)),
            pl.BlockSpec((None, None, block, width), lambda s, i, g, b: (b, g, i, 0)),
            cache,
            cache,
        ],
        out_specs=[
            pl.BlockSpec((None, None, None, block, width), lambda s, i, g, b: (b, g, s, i, 0)),
            statistic,
            statistic,
        ],
        out_shape=[
            jax.ShapeDtypeStruct((batch, groups, splits, rows, width), jnp.float32),
            jax.ShapeDtypeStruct((batch, groups, splits, rows), jnp.float32),
            jax.ShapeDtypeStruct((batch, groups, splits, rows), jnp.float32),
        ],
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
        interpret=interpret,
        name="cached_attention",
    )(*shares, at, held, q, k, v)
    weight = jnp.exp2(top - jnp.max(top, axis=2, keepdims=True))
    whole = jnp.sum(total * weight, axis=2)
    out = jnp.sum(out * weight[..., None], axis=2)
    return (out / jnp.where(whole > 0, whole, 1.0)[..., None]).astype(q.dtype)


@_run.defjvp
def _no_gradient(static: tuple[Any, ...], primals: Any, tangents: Any) -> Any:
    del static, primals, tangents
    raise BackendError(
        'cached_attention implementation "pallas" has no gradient; take "xla", or attention over whole rows'
    )


def _kernel(
    first: Any,
    end: Any,
    at: Any,
    held: Any,
    q: Any,
    k: Any,
    v: Any,
    out: Any,
    top: Any,
    total: Any,
    *,
    window: int | None,
    keys: int,
    slots: int,
) -> None:
    """One share of the keys: the sum of weighted values, the greatest score (in log 2) and the sum of weights."""
    block, width = q.shape
    queries, positions = q[...], at[...][:, None]
    scale = width**-0.5 * LOG2_E

    def body(j: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        out, top, total = carry
        here = pl.ds(j * keys, keys)
        there = (j * keys + jnp.arange(keys) < slots)[:, None]
        position = held[here][None, :]
        seen = (position >= 0) & (position <= positions)
        if window is not None:
            seen &= position > positions - window
        key = triton.load(k.at[here, :], mask=there, other=0.0).astype(queries.dtype)
        value = triton.load(v.at[here, :], mask=there, other=0.0).astype(queries.dtype)
        scores = jnp.where(seen, dot(queries, key, (1, 1)) * scale, HIDDEN)
        new = jnp.maximum(top, jnp.max(scores, axis=1))
        weights = jnp.where(seen, jnp.exp2(scores - new[:, None]), 0.0)
        kept = jnp.exp2(top - new)
        out = out * kept[:, None] + dot(weights.astype(value.dtype), value, (1, 0))
        return out, new, total * kept + jnp.sum(weights, axis=1)

    start = (
        jnp.zeros((block, width), jnp.float32),
        jnp.full((block,), HIDDEN, jnp.float32),
        jnp.zeros((block,), jnp.float32),
    )
    out[...], top[...], total[...] = lax.fori_loop(first[...], end[...], body, start)
