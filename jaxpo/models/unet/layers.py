"""Convolution and normalisation over images."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Tree = Any
LAYOUT = ("NHWC", "HWIO", "NHWC")


def convolve(params: Tree, x: Float[Array, "B H W c"], *, stride: int = 1) -> Float[Array, "B h w C"]:
    """A 3x3 convolution with a border of zeros, and its bias; with stride 2 the sides are halved."""
    y = lax.conv_general_dilated(
        x, params["weight"].astype(x.dtype), (stride, stride), ((1, 1), (1, 1)), dimension_numbers=LAYOUT
    )
    return y + params["bias"].astype(y.dtype)


def group_norm(params: Tree, x: Float[Array, "B H W C"], groups: int, eps: float) -> Float[Array, "B H W C"]:
    """`(x - mean) / sqrt(var + eps) * weight + bias`, moments over pixels and a group's channels, in float32.

    Reference: Wu and He 2018, arXiv:1803.08494, eq. 7.
    """
    wide = x.astype(jnp.float32).reshape(*x.shape[:3], groups, -1)
    centred = wide - jnp.mean(wide, (1, 2, 4), keepdims=True)
    normed = centred * lax.rsqrt(jnp.mean(jnp.square(centred), (1, 2, 4), keepdims=True) + eps)
    return (normed.reshape(x.shape) * params["weight"] + params["bias"]).astype(x.dtype)


def doubled(x: Float[Array, "B H W C"]) -> Float[Array, "B 2H 2W C"]:
    """Every pixel as two by two."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def gated(x: Float[Array, "... 2F"]) -> Float[Array, "... F"]:
    """`u gelu(g)` of the two halves, gelu by erf (Shazeer 2020, arXiv:2002.05202, eq. 6)."""
    u, g = jnp.split(x, 2, axis=-1)
    return u * jax.nn.gelu(g, approximate=False)
