"""Distillation of score margins."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import clean


def margin_mse(
    scores: Float[Array, "B K"],
    teacher_scores: Float[Array, "B K"],
    where: Bool[Array, "B K"],
) -> Float[Array, "B"]:
    """Squared error of how far the first document lies above each of the others.

        L = mean_{k > 0} ((s_0 - s_k) - (t_0 - t_k))^2

    Args:
      scores: `[B, K]` s, the first document's first.
      teacher_scores: `[B, K]` t, on the scale that the student's are to have. No gradient.
      where: `[B, K]` False where the list has no such document.

    Returns:
      `[B]` float32; 0 without a first document or without another.

    Limits: 0 where all margins agree; a shift of s or of t changes nothing.

    Reference: Hofstaetter et al. 2020, arXiv:2010.02666, equation 3.
    """
    s, t = clean(where, scores, teacher_scores)
    t = jax.lax.stop_gradient(t)
    error = (s[:, :1] - s) - (t[:, :1] - t)
    others = where & where[:, :1] & (jnp.arange(s.shape[1]) > 0)
    count = jnp.maximum(jnp.sum(others, axis=-1), 1)
    return jnp.sum(jnp.where(others, error * error, 0.0), axis=-1) / count
