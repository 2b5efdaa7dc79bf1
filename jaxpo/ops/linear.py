"""The only two ways in which a model uses a weight.

Weights are cast to the activations' type at the moment of use, so parameters and their gradients stay float32 while the
products run in the compute type. Accelerators accumulate bfloat16 products in float32 whatever the output type.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def linear(x: Float[Array, "... i"], w: Float[Array, "i *o"]) -> Float[Array, "... *o"]:
    """`y = x W`: contract the last axis of `x` with the first of `w`, in the type of `x`.

    Args:
      x: activations `[..., in]`.
      w: weight `[in, *out]`; `*out` may be several axes (`[D, 3, D]` gives `[..., 3, D]`).

    Returns:
      `[..., *out]` in `x.dtype`.
    """
    return lax.dot_general(x, w.astype(x.dtype), (((x.ndim - 1,), (0,)), ((), ())))


def einsum(spec: str, x: Array, w: Array, *, out_dtype: Any = None) -> Array:
    """`jnp.einsum(spec, x, w)` with the weight cast to `x.dtype`; accumulates into and returns `out_dtype` if given."""
    return jnp.einsum(spec, x, w.astype(x.dtype), preferred_element_type=out_dtype)
