"""Sums over labelled stretches of tokens: the steps of a solution, the items of a list."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def labelled_sums(x: Float[Array, "... T"], labels: Int[Array, "... T"], *, count: int) -> Float[Array, "... K"]:
    """Float32 sum of x over the tokens of each label 1 .. `count`.

    Tokens labelled 0 or less belong to none and may hold anything; labels beyond `count` join the last.
    """
    inside = jnp.minimum(labels, count)[..., None] == jnp.arange(1, count + 1)
    return jnp.sum(jnp.where(inside, jnp.asarray(x).astype(jnp.float32)[..., None], 0.0), axis=-2)
