"""Preference Orchestrator: weights of several rewards from the prompt alone (arXiv:2511.10656)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import clean, keep

EPSILON = 1e-8
"""Added to the scale that rewards are divided by."""


def normalised_rewards(
    rewards: Float[Array, "... K"], offset: Float[Array, "K"], scale: Float[Array, "K"]
) -> Float[Array, "... K"]:
    """`(R_k - offset_k) / (scale_k + 1e-8)`: z-scores of mean and standard deviation, or min-max of low and range."""
    return (jnp.asarray(rewards, jnp.float32) - offset) / (scale + EPSILON)


def orchestrator_targets(
    rewards: Float[Array, "... K"],
    offset: Float[Array, "K"],
    scale: Float[Array, "K"],
    *,
    temperature: float = 1.0,
) -> Float[Array, "... K"]:
    """What a preferred response says of the weights: `w* = softmax(R~ / tau)`; no gradient.

    Args:
      rewards: `[..., K]` of the preferred response under K frozen reward models.
      offset: `[K]` of the training split, see `normalised_rewards`.
      scale: `[K]`.
      temperature: tau.

    Returns:
      `[..., K]` float32, each row on the simplex.

    Limits: uniform as tau grows, one-hot as it goes to 0. With statistics of the same rewards it is unchanged where a
    reward model is rescaled and shifted.

    Reference: arXiv:2511.10656; temperature and normaliser are reconstructed.
    """
    return jax.lax.stop_gradient(jax.nn.softmax(normalised_rewards(rewards, offset, scale) / temperature, axis=-1))


def pro_orchestrator(
    logits: Float[Array, "B K"], targets: Float[Array, "B K"], *, where: Bool[Array, "B"] | None = None
) -> Float[Array, "B"]:
    """KL divergence of the adapter's weights from the targets.

        L = KL(w* || softmax(z)) = sum_k w*_k (log w*_k - log softmax(z)_k)

    Args:
      logits: `[B, K]` z, what the adapter makes of each prompt.
      targets: `[B, K]` w*, constants on the simplex.
      where: `[B]` False where there is no prompt.

    Returns:
      `[B]` float32, at least 0; 0 where there is no prompt.

    Limits: 0 exactly where softmax(z) = w*; a constant added to all logits changes nothing; the gradient in z is
    softmax(z) - w*, which sums to 0. Of several responses to a prompt the minimum is at the mean of their targets.

    Reference: arXiv:2511.10656, L_PRO; the direction is the one that makes the target the teacher.
    """
    rows = None if where is None else where[:, None]
    z, target = clean(rows, logits, jax.lax.stop_gradient(targets))
    safe = jnp.where(target > 0, target, 1.0)
    each = jnp.where(target > 0, target * (jnp.log(safe) - jax.nn.log_softmax(z, axis=-1)), 0.0)
    return keep(where, jnp.sum(each, axis=-1))


def interpolated_weights(
    weights: Float[Array, "... K"], own: Float[Array, "... K"], *, share: float
) -> Float[Array, "... K"]:
    """`(1 - lambda) w_phi + lambda w_user`: a user's weights, as far as they are to count."""
    return (1.0 - share) * weights + share * own


def orchestrated_reward(
    weights: Float[Array, "... K"],
    rewards: Float[Array, "... K"],
    offset: Float[Array, "K"],
    scale: Float[Array, "K"],
) -> Float[Array, "..."]:
    """`w(x) . R~(x, y)`, the reward of an answer: of normalised rewards, for on other scales weights say nothing.

    Limits: equal weights are the mean of the rewards; K = 1 is that reward, whatever the adapter.
    """
    return jnp.sum(weights * normalised_rewards(rewards, offset, scale), axis=-1)
