"""Small networks between a model's states and a space of their own."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxpo.models.spec import Param, Table, normal, zeros
from jaxpo.ops.linear import linear

Activation = Literal["relu", "gelu"]
ACTIVATIONS = {"relu": jax.nn.relu, "gelu": jax.nn.gelu}


def projector_table(inputs: int, outputs: int, *, hidden: int = 2, stack: int | None = None) -> Table:
    """A linear map to `outputs`, `hidden` layers of that width and a linear map out of them: "in", "0", ..., "out".

    Args:
      stack: so many of them side by side, on a leading axis of every parameter; None = one.
    """
    lead: tuple[int, ...] = () if stack is None else (stack,)

    def layer(fan_in: int, axis: str | None) -> Table:
        shape, axes = (*lead, fan_in, outputs), (*(None for _ in lead), axis, None)
        return {
            "weight": Param(shape, axes, normal(fan_in**-0.5)),
            "bias": Param((*lead, outputs), (*(None for _ in lead), None), zeros, decay=False),
        }

    return {
        "in": layer(inputs, "embed"),
        **{str(i): layer(outputs, None) for i in range(hidden)},
        "out": layer(outputs, None),
    }


def project(params: Any, x: Float[Array, "... D"], *, activation: Activation, residual: bool) -> Float[Array, "... d"]:
    """`z = W_in x; z = [z +] act(W_i z + b_i), i = 0, 1, ...; W_out z + b_out`, in float32.

    Args:
      residual: with the term in brackets; without it the first map is followed by the activation too.
    """
    act = ACTIVATIONS[activation]
    z = _affine(params["in"], x.astype(jnp.float32))
    z = z if residual else act(z)
    for name in sorted(params.keys() - {"in", "out"}, key=int):
        new = act(_affine(params[name], z))
        z = z + new if residual else new
    return _affine(params["out"], z)


def _affine(params: Any, x: Array) -> Array:
    return linear(x, params["weight"]) + params["bias"]
