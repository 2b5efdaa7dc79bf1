"""Weights whose products XLA for CPU leaves to Eigen: what generating in float32 on a CPU is fast with."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxpo.ops.linear import Standing


@functools.partial(jax.tree_util.register_dataclass, data_fields=("weight",), meta_fields=())
@dataclass(frozen=True)
class Eigen(Standing):
    """The weight itself; its product with rows is `x W`, computed by Eigen.

    XLA's CPU backend hands plain products to YNNPACK, which packs the weight for every product: over 8 to 32 rows Eigen
    takes two thirds of the time (docs/generation.md), over one row and over hundreds the same. Of the ways to write a
    product only a convolution of width one stays with Eigen, as the plain product that XLA makes of it; with rows as
    positions, so that it does so inside loops, too: there a convolution over rows as a batch would stay one, a hundred
    times as slow.

    Attributes:
      weight: `[i, *o]`, an array.
    """

    weight: Float[Array, "i *o"]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return self.weight.shape

    def linear(self, x: Float[Array, "... i"]) -> Float[Array, "... *o"]:
        """`x W` in the type of `x`."""
        kernel = self.weight.astype(x.dtype).reshape(1, self.weight.shape[0], -1)
        flat = x.reshape(1, -1, x.shape[-1])
        y = lax.conv_general_dilated(flat, kernel, (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC"))
        return y.reshape(*x.shape[:-1], *self.weight.shape[1:])

    def einsum(self, spec: str, x: Array, out_dtype: Any) -> Array:
        """As of the array."""
        return jnp.einsum(spec, x, self.weight.astype(x.dtype), preferred_element_type=out_dtype)

    def rows(self, index: Int[Array, "..."], dtype: Any) -> Float[Array, "... *o"]:
        """As of the array."""
        return jnp.take(self.weight, index, axis=0, mode="clip").astype(dtype)
