"""Pieces that the losses share: casting, masking that is safe for gradients, and stable scalar forms."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

softplus = jax.nn.softplus
"""log(1 + e^z); -log sigmoid(z) = softplus(-z). Exact to the last bit that matters at |z| = 1e4, gradient included."""


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a setting that is none of the choices, instead of taking it for one of them."""
    if value not in choices:
        raise ValueError(f"{name} {value!r}: expected one of {', '.join(map(repr, choices))}")


def clean(where: Bool[Array, "..."] | None, *arrays: Array) -> tuple[Array, ...]:
    """Cast to float32 and put 0 where there is no example, so that no gradient passes through what lies there."""
    cast = (jnp.asarray(x).astype(jnp.float32) for x in arrays)
    return tuple(cast) if where is None else tuple(jnp.where(where, x, 0.0) for x in cast)


def keep(where: Bool[Array, "..."] | None, loss: Float[Array, "..."]) -> Float[Array, "..."]:
    """The loss, 0 where there is no example."""
    return loss if where is None else jnp.where(where, loss, 0.0)


def both(where: Bool[Array, "..."] | None, condition: Bool[Array, "..."]) -> Bool[Array, "..."]:
    """Logical and with an optional mask."""
    return condition if where is None else jnp.logical_and(where, condition)


def masked_sum(x: Float[Array, "... T"], mask: Bool[Array, "... T"]) -> Float[Array, "..."]:
    """Float32 sum over the last axis of the entries under the mask; the others may hold anything, NaN included."""
    return jnp.sum(jnp.where(mask, jnp.asarray(x).astype(jnp.float32), 0.0), axis=-1)


def per_token(total: Float[Array, "..."], length: Float[Array, "..."]) -> Float[Array, "..."]:
    """`total / max(length, 1)`: mean per token, 0 for an empty response whose total is 0."""
    return total / jnp.maximum(length, 1.0)


def at_most(x: Float[Array, "..."], bound: float | Float[Array, ""]) -> Float[Array, "..."]:
    """`min(x, bound)`; kink at the bound: the derivative there is that of x, 1, where `jnp.minimum` has 1/2."""
    return jnp.where(x > bound, bound, x)


def smoothed_logistic(h: Float[Array, "..."], label_smoothing: float = 0.0) -> Float[Array, "..."]:
    """`(1 - e) softplus(-h) + e softplus(h)`: logistic loss of a label that is flipped with probability e."""
    if isinstance(label_smoothing, (int, float)) and label_smoothing == 0:
        return softplus(-h)
    return (1.0 - label_smoothing) * softplus(-h) + label_smoothing * softplus(h)
