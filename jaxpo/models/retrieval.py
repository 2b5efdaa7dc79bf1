"""From hidden states to the vectors by which texts are found: one for each token, or one for each text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.models.family import TextConfig
from jaxpo.models.heads import unit
from jaxpo.models.spec import Param, Table, normal

Pooling = Literal["tokens", "mean", "cls", "last"]
"""A vector of every token, their mean, that of BOS, or that of the last token."""
PROJECTION = "projection"
"""Where the dense layers stand in `params`."""
ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "identity": lambda x: x,
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "silu": jax.nn.silu,
}


@dataclass(frozen=True)
class VectorHead:
    """How vectors are made of hidden states.

    Attributes:
      pooling: see `Pooling`.
      activations: of the dense layers, first to last; none = the hidden states themselves.
      normalize: vectors have length 1.
    """

    pooling: Pooling = "tokens"
    activations: tuple[str, ...] = ("identity",)
    normalize: bool = True


def projection_table(config: TextConfig, dimensions: int) -> Table:
    """One dense layer without bias, `[D, E]`, under `params["projection"]["0"]`."""
    shape, std = (config.hidden_size, dimensions), config.hidden_size**-0.5
    return {"0": {"weight": Param(shape, ("embed", None), normal(std), decay=False)}}


def project(params: Any, x: Float[Array, "... D"], head: VectorHead) -> Float[Array, "... E"]:
    """The dense layers in float32: `y = f(x W + b) [+ x W_r]` each, and the length made 1."""
    x = x.astype(jnp.float32)
    for i, name in enumerate(head.activations):
        layer = params[str(i)]
        y = ACTIVATIONS[name](x @ layer["weight"] + layer.get("bias", 0.0))
        x = y + x @ layer["residual"] if "residual" in layer else y
    return unit(x) if head.normalize else x


def pool(hidden: Float[Array, "... T D"], key: Bool[Array, "... T"], pooling: Pooling) -> Float[Array, "... D"]:
    """One vector of each text, from the tokens that attention sees."""
    count = jnp.sum(key, axis=-1)
    if pooling == "mean":
        total = jnp.sum(jnp.where(key[..., None], hidden.astype(jnp.float32), 0.0), axis=-2)
        return total / jnp.maximum(count, 1)[..., None]
    at = jnp.zeros_like(count) if pooling == "cls" else jnp.maximum(count - 1, 0)
    return jnp.take_along_axis(hidden, at[..., None, None], axis=-2)[..., 0, :].astype(jnp.float32)
