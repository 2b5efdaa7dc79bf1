"""A ranking loss of cosines against grades of likeness."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import clean


def cosent(
    scores: Float[Array, "B K"],
    labels: Float[Array, "B K"],
    where: Bool[Array, "B K"],
    *,
    scale: float = 20.0,
) -> Float[Array, "B"]:
    """CoSENT: every two pairs of texts whose grades differ should have cosines in that order.

        L = log(1 + sum_{labels_i > labels_j} exp(scale (s_j - s_i)))

    Args:
      scores: `[B, K]` s, cosines; all pairs of a batch are one row of them.
      labels: `[B, K]` grades, larger is more alike; only their order counts.
      where: `[B, K]` False where there is no such pair.
      scale: inverse temperature.

    Returns:
      `[B]` float32; 0 where no two grades differ.

    Limits: it falls to 0 as all right orders widen; for two entries it is softplus(scale (s_j - s_i)). A shift of s
    changes nothing.

    Reference: Su 2022, https://kexue.fm/archives/8847; as CoSENTLoss in sentence-transformers.
    """
    s, grade = clean(where, scores, labels)
    ordered = (grade[:, :, None] > grade[:, None, :]) & where[:, :, None] & where[:, None, :]
    wrong = jnp.where(ordered, scale * (s[:, None, :] - s[:, :, None]), -jnp.inf).reshape(s.shape[0], -1)
    top = jax.lax.stop_gradient(jnp.maximum(jnp.max(wrong, axis=-1, keepdims=True), 0.0))
    return top[:, 0] + jnp.log(jnp.exp(-top[:, 0]) + jnp.sum(jnp.exp(wrong - top), axis=-1))
