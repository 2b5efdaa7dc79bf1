"""Distributions over the responses of a list, absent ones left out."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def masked_log_softmax(scores: Float[Array, "B K"], where: Bool[Array, "B K"]) -> Float[Array, "B K"]:
    """`s_k - log sum_j exp s_j` over the present responses; 0 where there is none, and no gradient there."""
    top = jnp.max(jnp.where(where, scores, -jnp.inf), axis=-1, keepdims=True, initial=-jnp.inf)
    top = jax.lax.stop_gradient(jnp.where(jnp.isfinite(top), top, 0.0))
    shifted = jnp.where(where, scores - top, 0.0)
    total = jnp.sum(jnp.where(where, jnp.exp(shifted), 0.0), axis=-1, keepdims=True)
    # An empty list has total 0: its logarithm is taken of 1 instead.
    return jnp.where(where, shifted - jnp.log(jnp.where(total > 0, total, 1.0)), 0.0)


def masked_softmax(scores: Float[Array, "B K"], where: Bool[Array, "B K"]) -> Float[Array, "B K"]:
    """`exp s_k / sum_j exp s_j` over the present responses; 0 where there is none."""
    return jnp.where(where, jnp.exp(masked_log_softmax(scores, where)), 0.0)
