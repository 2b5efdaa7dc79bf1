"""A weight that is trained and another that is used: rounded to few bits wherever a model multiplies with it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxpo.ops.grids import Grid, rounded, rounded_activations
from jaxpo.ops.linear import Standing, einsum, linear, rows


@functools.partial(jax.tree_util.register_dataclass, data_fields=("weight",), meta_fields=("grid", "axis"))
@dataclass(frozen=True)
class FakeQuant(Standing):
    """The weight `Q(weight)`, with the gradient of `weight`: dL/dweight = dL/dQ (the straight-through estimator:
    Bengio et al. 2013, arXiv 1308.3432, section 4; for training on a grid Jacob et al. 2017, arXiv 1712.05877,
    section 3).

    Attributes:
      weight: any shape, what the optimiser moves.
      grid: what it is rounded to; static.
      axis: the one that products contract, along which the groups lie; static.
    """

    weight: Float[Array, "..."]
    grid: Grid
    axis: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return self.weight.shape

    def dense(self) -> Float[Array, "..."]:
        """`Q(weight)`."""
        return on_grid(self.weight, self.grid, self.axis)

    def operands(self, x: Float[Array, "... i"]) -> tuple[Float[Array, "... i"], Float[Array, "..."]]:
        """What is multiplied in the place of `x` and the weight."""
        return (asked(x) if self.grid.activations else x), self.dense()

    def linear(self, x: Float[Array, "... i"]) -> Float[Array, "... *o"]:
        """`x Q(weight)`."""
        return linear(*self.operands(x))

    def einsum(self, spec: str, x: Array, out_dtype: Any) -> Array:
        """Any contraction that an array has."""
        x, w = self.operands(x)
        return einsum(spec, x, w, out_dtype=out_dtype)

    def grouped(self, x: Float[Array, "P i"], groups: Any, product: Callable[..., Array]) -> Float[Array, "P o"]:
        """Each group's rows by its own rounded matrix."""
        return product(*self.operands(x))

    def rows(self, index: Int[Array, "..."], dtype: Any) -> Float[Array, "... *o"]:
        """`Q(weight)[index]`."""
        return rows(self.dense(), index, dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def on_grid(w: Float[Array, "..."], to: Grid, axis: int) -> Float[Array, "..."]:
    """The weight rounded along an axis with absmax scales; its gradient passes as if it were not rounded."""
    return jnp.moveaxis(rounded(jnp.moveaxis(w, axis, -1), to), -1, axis)


@on_grid.defjvp
def _straight(to: Grid, axis: int, primals: Any, tangents: Any) -> Any:
    return on_grid(*primals, to, axis), tangents[0]


@jax.custom_jvp
def asked(x: Float[Array, "... i"]) -> Float[Array, "... i"]:
    """Activations rounded to eight bits per token, with the gradient of those that were not."""
    return rounded_activations(x)


@asked.defjvp
def _straight_asked(primals: Any, tangents: Any) -> Any:
    return asked(*primals), tangents[0]
