"""The grouped product on NVIDIA: a blocked product in Pallas (Triton) that looks up each block's matrix.

`lax.ragged_dot` is dense there. The layout gives every block of rows one matrix: a kernel needs no more than an index.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float, Int

LARGEST = 64


def tile(width: int) -> int:
    """The largest power of two, at most 64, that divides a width: tiles are whole, and no element needs a mask."""
    return min(LARGEST, width & -width)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def triton_product(
    x: Float[Array, "P i"], w: Float[Array, "E i o"], sizes: Int[Array, "E"], block: int, interpret: bool = False
) -> Float[Array, "P o"]:
    """`y[p] = x[p] W[group of slot p]`, 0 behind the last group; summed in float32, in the type of `x`.

    Float32 is multiplied as XLA's default on NVIDIA does it, in TF32.

    Args:
      x: `[P, in]`, in blocks of `block` rows that each belong to one group; `in` and `out` are multiples of 16.
      w: `[E, in, out]`; its gradient is summed in float32 and leaves the kernel in its own type.
      sizes: `[E]` slots of each group, whole blocks.
      interpret: run the kernel's operations one by one, on any platform.
    """
    return _rows_product(x, w.astype(x.dtype), sizes, block, interpret)


def _rows_product(x: Array, w: Array, sizes: Array, block: int, interpret: bool) -> Array:
    (rows, inner), outer = x.shape, w.shape[2]
    step, across = tile(inner), tile(outer)
    ends = jnp.cumsum(sizes).astype(jnp.int32)
    at = jnp.arange(rows // block) * block
    owner = jnp.minimum(jnp.searchsorted(ends, at, side="right"), w.shape[0] - 1).astype(jnp.int32)

    def kernel(owner: Any, used: Any, x: Any, w: Any, y: Any) -> None:
        row, column = pl.program_id(0), pl.program_id(1)
        group = owner[row]

        def add(i: Array, total: Array) -> Array:
            left = x[pl.ds(row * block, block), pl.ds(i * step, step)]
            right = w[group, pl.ds(i * step, step), pl.ds(column * across, across)]
            return total + jnp.dot(left, right, preferred_element_type=jnp.float32)

        total = lax.fori_loop(0, inner // step, add, jnp.zeros((block, across), jnp.float32))
        total = jnp.where(row * block < used[0], total, 0.0)
        y[pl.ds(row * block, block), pl.ds(column * across, across)] = total.astype(y.dtype)

    out = jax.ShapeDtypeStruct((rows, outer), x.dtype)
    return _call(kernel, (rows // block, outer // across), out, interpret)(owner, ends[-1:], x, w)


def _weights_product(x: Array, dy: Array, sizes: Array, dtype: Any, block: int, interpret: bool) -> Array:
    """`[E, in, out]`: the sum over a group's rows of `x^T dy`; a program adds up a tile over a group's blocks."""
    inner, outer = x.shape[1], dy.shape[1]
    down, across = tile(inner), tile(outer)
    ends = jnp.cumsum(sizes).astype(jnp.int32)
    begins = (ends - sizes).astype(jnp.int32)

    def kernel(begins: Any, ends: Any, x: Any, dy: Any, dw: Any) -> None:
        group, i, j = (pl.program_id(axis) for axis in range(3))
        place = pl.ds(i * down, down), pl.ds(j * across, across)

        def add(at: Array, total: Array) -> Array:
            rows = pl.ds(at * block, block)
            return total + jnp.dot(x[rows, place[0]].T, dy[rows, place[1]], preferred_element_type=jnp.float32)

        start = jnp.zeros((down, across), jnp.float32)
        total = lax.fori_loop(begins[group] // block, ends[group] // block, add, start)
        dw[group, *place] = total.astype(dw.dtype)

    out = jax.ShapeDtypeStruct((sizes.shape[0], inner, outer), dtype)
    grid = (sizes.shape[0], inner // down, outer // across)
    return _call(kernel, grid, out, interpret)(begins, ends, x, dy)


def _call(kernel: Any, grid: tuple[int, ...], out: jax.ShapeDtypeStruct, interpret: bool) -> Any:
    parameters = None if interpret else triton.CompilerParams(num_warps=4, num_stages=3)
    return pl.pallas_call(kernel, out_shape=out, grid=grid, compiler_params=parameters, interpret=interpret)


def _back(block: int, interpret: bool, saved: tuple[Array, Array, Array], dy: Array) -> tuple[Array, Array, None]:
    x, w, sizes = saved
    dx = _rows_product(dy, w.astype(x.dtype).swapaxes(1, 2), sizes, block, interpret)
    return dx, _weights_product(x, dy, sizes, w.dtype, block, interpret), None


triton_product.defvjp(
    lambda x, w, sizes, block, interpret: (triton_product(x, w, sizes, block, interpret), (x, w, sizes)), _back
)
