"""Weights of eight bits, multiplied as integers: what decoding on a CPU is fast with.

A step of decoding reads every weight once, so that a quarter of the bytes is worth more than the rounding of what they
are multiplied with. XLA for CPU has no fast product of an integer matrix with a float vector; it has one of two integer
matrices.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Int8

from jaxpo.ops.linear import Standing

LARGEST = 127
LONGEST = (2**31 - 1) // LARGEST**2
"""Products of two such values that a sum in int32 always holds."""
_FEW_ROWS = 64
_LEAST_ROWS = 2


@functools.partial(jax.tree_util.register_dataclass, data_fields=("values", "scales"), meta_fields=("axis",))
@dataclass(frozen=True)
class Quant(Standing):
    """The weight `scales * values`: int8 with a scale per output channel (symmetric, absmax: Dettmers et al. 2022,
    arXiv 2208.07339, eq. 3).

    The contracted axis lies last, whatever its place in the weight: XLA for CPU is fast with both factors so.

    Attributes:
      values: `[*o, i]` int8 in -127..127.
      scales: `[*o]` float32.
      axis: of the weight it stands for, the one that products contract: 0 of `[i, *o]`, -1 of an output matrix
        `[V, D]`; static.
    """

    values: Int8[Array, "*o i"]
    scales: Float[Array, "*o"]
    axis: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight it stands for."""
        outputs, at = list(self.scales.shape), self.axis % self.values.ndim
        return (*outputs[:at], self.values.shape[-1], *outputs[at:])

    def dense(self, dtype: Any = jnp.float32) -> Float[Array, "..."]:
        """The weight it stands for."""
        return jnp.moveaxis(self.values * self.scales[..., None], -1, self.axis).astype(dtype)

    def linear(self, x: Float[Array, "... i"]) -> Float[Array, "... *o"]:
        """`x W` with the rows of `x` rounded to int8 by scales of their own; needs `axis` 0."""
        if self.axis != 0:
            raise ValueError(f"a quantised weight contracted over its axis {self.axis} has no product over its first")
        return self._product(x, x.dtype)

    def einsum(self, spec: str, x: Array, out_dtype: Any) -> Array:
        """Over `axis` alone, which is the last of `x`; the outputs stand last and in order."""
        operands, _, out = spec.replace(" ", "").partition("->")
        of_x, of_w = operands.split(",")
        outputs = of_w.replace(of_w[self.axis], "")
        if of_x[-1] != of_w[self.axis] or out != of_x[:-1] + outputs or set(outputs) & set(of_x):
            raise ValueError(f"einsum {spec!r}: a quantised weight is contracted over axis {self.axis} and no other")
        return self._product(x, x.dtype if out_dtype is None else out_dtype)

    def rows(self, index: Int[Array, "..."], dtype: Any) -> Float[Array, "... *o"]:
        """`W[index]`; needs the contracted axis to be another than the first."""
        if self.axis % self.values.ndim == 0:
            raise ValueError("rows of a quantised weight whose first axis is contracted share no scale")
        taken = functools.partial(jnp.take, indices=index, axis=0, mode="clip")
        picked = Quant(taken(self.values), taken(self.scales), -1 if self.axis < 0 else self.axis - 1 + index.ndim)
        return picked.dense(dtype)

    def group(self, index: Array) -> Quant:
        """Of a stack of weights `[E, i, *o]`, one: `[i, *o]`."""
        return Quant(self.values[index], self.scales[index], self.axis - 1)

    def _product(self, x: Float[Array, "... i"], dtype: Any) -> Float[Array, "... *o"]:
        flat = self.values.reshape(-1, self.values.shape[-1])
        y = _rounded_product(x.reshape(-1, x.shape[-1]), flat, self.scales.reshape(-1))
        return y.reshape(*x.shape[:-1], *self.scales.shape).astype(dtype)


def quantise(w: Float[Array, "..."], axis: int = 0) -> Quant:
    """`values = round(w / scale)`, `scale = max |w| / 127` over the contracted axis; a channel of zeros has scale 0.

    Args:
      axis: which products contract: 0 of `[i, *o]`, 1 of a stack `[E, i, o]`, -1 of an output matrix `[V, D]`.

    Raises:
      ValueError: so long an axis that a sum of products might not fit int32.
    """
    if w.shape[axis] > LONGEST:
        raise ValueError(f"{w.shape[axis]:,} products of int8 values may overflow int32; at most {LONGEST:,} cannot")
    return Quant(*rounded(jnp.moveaxis(w, axis, -1)), axis)


def rounded(x: Float[Array, "... i"]) -> tuple[Int8[Array, "... i"], Float[Array, "..."]]:
    """int8 values and a float32 scale per row, with ties to even; a row of zeros has the scale 0."""
    x = x.astype(jnp.float32)
    scale = jnp.max(jnp.abs(x), axis=-1) / LARGEST
    return jnp.round(x / jnp.where(scale > 0, scale, 1.0)[..., None]).astype(jnp.int8), scale


@jax.custom_jvp
def _rounded_product(
    x: Float[Array, "n i"], values: Int8[Array, "o i"], scales: Float[Array, "o"]
) -> Float[Array, "n o"]:
    """The integer sums are exact, so that a row's result is the same bit for bit in every batch."""
    rows = x.shape[0]
    asked, own = rounded(x)
    # XLA for CPU multiplies a single row by a scalar loop, ten times as slow.
    asked = jnp.pad(asked, ((0, max(_LEAST_ROWS - rows, 0)), (0, 0)))
    last = (((1,), (1,)), ((), ()))
    # Few rows are faster (a fifth at 8 and 32) as columns on the right; scaled there, so that XLA keeps them there.
    if rows <= _FEW_ROWS:
        sums = lax.dot_general(values, asked, last, preferred_element_type=jnp.int32)[:, :rows]
        return ((sums * scales[:, None]) * own).T
    sums = lax.dot_general(asked, values, last, preferred_element_type=jnp.int32)
    return (sums * scales) * own[:, None]


@_rounded_product.defjvp
def _no_gradient(primals: Any, tangents: Any) -> Any:
    del primals, tangents
    raise TypeError("rounding to int8 has no gradient: a quantised model does not train; train the float model")
