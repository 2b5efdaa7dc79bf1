"""The only three ways in which a model uses a matrix: two products and the look-up of rows.

Weights are cast to the activations' type at the moment of use, so parameters and their gradients stay float32 while the
products run in the compute type. Accelerators accumulate bfloat16 products in float32 whatever the output type.

A weight is an array, or a registered leaf that stands for one and knows its own products (`Standing`): `LowRank` here,
`jaxpo.ops.quant.Quant`.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxpo.sharding import current_mesh


class Standing(ABC):
    """A leaf of a parameter tree that stands for a weight; the functions below hand their work to its methods."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight it stands for."""

    @abstractmethod
    def linear(self, x: Float[Array, "... i"]) -> Float[Array, "... *o"]:
        """See `linear`."""

    @abstractmethod
    def einsum(self, spec: str, x: Array, out_dtype: Any) -> Array:
        """See `einsum`."""

    @abstractmethod
    def rows(self, index: Int[Array, "..."], dtype: Any) -> Float[Array, "... *o"]:
        """See `rows`."""

    def grouped(self, x: Float[Array, "P i"], groups: Any, product: Callable[..., Array]) -> Float[Array, "P o"]:
        """See `jaxpo.ops.grouped.grouped_matmul`; `product(x, w)` is that of an array.

        Raises:
          TypeError: one that stands for no stack of weights.
        """
        raise TypeError(f"a {type(self).__name__} has no product by groups; merge it into the model first")


@functools.partial(jax.tree_util.register_dataclass, data_fields=("base", "a", "b"), meta_fields=("scale",))
@dataclass(frozen=True)
class LowRank(Standing):
    """The weight `base + scale * a b` without ever forming `a b` (Hu et al. 2021, arXiv 2106.09685, eq. 3).

    Attributes:
      base: `[i, *o]`, an array or a leaf that stands for one.
      a: `[i, r]`.
      b: `[r, *o]`.
      scale: of the update; static.
    """

    base: Weight
    a: Float[Array, "i r"]
    b: Float[Array, "r *o"]
    scale: float

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight it stands for."""
        return self.base.shape

    def merged(self) -> Float[Array, "i *o"]:
        """The dense weight, in the base's type, from products at full precision: what a finished stage hands on.

        Raises:
          TypeError: the base is no array.
        """
        if isinstance(self.base, Standing):
            raise TypeError(f"an adapter over a {type(self.base).__name__} has no dense weight; merge it before that")
        update = jnp.tensordot(self.a, self.b, axes=1, precision=lax.Precision.HIGHEST)
        return (self.base + self.scale * update).astype(self.base.dtype)

    def linear(self, x: Float[Array, "... i"]) -> Float[Array, "... *o"]:
        """`x base + scale * (x a) b`."""
        return linear(x, self.base) + self.scale * linear(linear(x, self.a), self.b)

    def einsum(self, spec: str, x: Array, out_dtype: Any) -> Array:
        """Over the first axis alone."""
        inner, outer = _low_rank_specs(spec)
        update = einsum(outer, einsum(inner, x, self.a), self.b, out_dtype=out_dtype)
        return einsum(spec, x, self.base, out_dtype=out_dtype) + self.scale * update

    def rows(self, index: Int[Array, "..."], dtype: Any) -> Float[Array, "... *o"]:
        """`base[t] + scale * a[t] b`."""
        return rows(self.base, index, dtype) + self.scale * linear(rows(self.a, index, dtype), self.b)


Weight = Array | Standing


def linear(x: Float[Array, "... i"], w: Weight) -> Float[Array, "... *o"]:
    """`y = x W`: contract the last axis of `x` with the first of `w`, in the type of `x`.

    Args:
      x: activations `[..., in]`.
      w: weight `[in, *out]`; `*out` may be several axes (`[D, 3, D]` gives `[..., 3, D]`).

    Returns:
      `[..., *out]` in `x.dtype`.
    """
    if isinstance(w, Standing):
        return w.linear(x)
    weight, mesh = w.astype(x.dtype), current_mesh()
    if jax.default_backend() == "cpu" and (mesh is None or mesh.size == 1):
        # XLA for CPU makes the gradient of a weight of several output axes from a transposed copy of the cotangents;
        # accelerators choose the layout of such an output themselves.
        weight = weight.reshape(weight.shape[0], -1)
    y = over_positions(lambda x: lax.dot_general(x, weight, (((x.ndim - 1,), (0,)), ((), ()))), x)
    return y.reshape(*x.shape[:-1], *w.shape[1:])


def over_positions(product: Callable[[Array], Array], x: Float[Array, "... i"]) -> Float[Array, "... *o"]:
    """`product(x)` of a weight that is contracted with the last axis, computed with the other axes joined to one.

    The weight's gradient then contracts one axis. For two, XLA's CPU backend copies both operands into another layout.
    Where positions are spread over devices, the joined axis could not lie as its parts do, and they stay apart.

    Args:
      product: `[..., i] -> [..., *o]` for any number of leading axes.
    """
    mesh = current_mesh()
    if mesh is not None and mesh.shape["sequence"] > 1:
        return product(x)
    y = product(x.reshape(-1, x.shape[-1]))
    return y.reshape(*x.shape[:-1], *y.shape[1:])


def einsum(spec: str, x: Array, w: Weight, *, out_dtype: Any = None) -> Array:
    """`jnp.einsum(spec, x, w)` with the weight cast to `x.dtype`; accumulates into and returns `out_dtype` if given.

    Raises:
      ValueError: a weight that is no array, of which other axes are contracted or shared with `x` than it can.
    """
    if isinstance(w, Standing):
        return w.einsum(spec, x, out_dtype)
    return jnp.einsum(spec, x, w.astype(x.dtype), preferred_element_type=out_dtype)


def rows(w: Weight, index: Int[Array, "..."], dtype: Any) -> Float[Array, "... *o"]:
    """`w[index]` over the first axis, in `dtype`: a look-up of tokens. Indices outside are clipped into it."""
    if isinstance(w, Standing):
        return w.rows(index, dtype)
    return jnp.take(w, index, axis=0, mode="clip").astype(dtype)


def _low_rank_specs(spec: str) -> tuple[str, str]:
    """ "abi,ijk->abjk" as "abi,iR->abR" and "abR,Rjk->abjk"."""
    operands, _, out = spec.replace(" ", "").partition("->")
    x, w = operands.split(",")
    if w[0] not in x or w[0] in out or set(w[1:]) & set(x):
        raise ValueError(f"einsum {spec!r}: a low-rank weight is contracted over its first axis and no other")
    narrow = x.replace(w[0], "") + "R"
    return f"{x},{w[0]}R->{narrow}", f"{narrow},R{w[1:]}->{out}"
