"""Importance ratios of the policy over the one that wrote an answer, and the clipped surrogate that they enter."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import at_most, check_choice, clean, masked_sum, per_token

Level = Literal["token", "sequence"]
LARGEST = 20.0
"""Bound on log-ratios, so that no exponential overflows (verl's)."""


def trained(mask: Bool[Array, "N T"], where: Bool[Array, "N"] | None) -> Bool[Array, "N T"]:
    """The tokens that are trained on: those of the answers that there are."""
    mask = jnp.asarray(mask).astype(bool)
    return mask if where is None else mask & jnp.asarray(where).astype(bool)[:, None]


def lengths(mask: Bool[Array, "N T"]) -> Float[Array, "N"]:
    """Trained tokens of each answer."""
    return jnp.sum(mask.astype(jnp.float32), axis=-1)


def constant(mask: Bool[Array, "N T"], x: Float[Array, "N T"]) -> Float[Array, "N T"]:
    """What enters without gradient: advantages, recorded log-probs; 0 outside the mask."""
    return jax.lax.stop_gradient(clean(mask, x)[0])


def log_ratios(
    logps: Float[Array, "N T"], old_logps: Float[Array, "N T"], mask: Bool[Array, "N T"], *, level: Level = "token"
) -> Float[Array, "N T"]:
    """Log importance weights, of tokens or averaged over an answer: `log pi - log pi_old`, bounded by +-20.

    Args:
      logps: `[N, T]` of the policy, nats.
      old_logps: `[N, T]` of the policy that wrote the answers; no gradient.
      mask: `[N, T]` True on the tokens that are trained on; the others may hold anything, NaN included.
      level: "token", or "sequence" for the mean over the answer's tokens, the same on each of them.

    Returns:
      `[N, T]` float32, 0 outside the mask. Kinks at the bound, where the slope ends.

    Reference: Schulman et al. 2017, arXiv:1707.06347; sequence: Zheng et al. 2025, arXiv:2507.18071, eq. 7.
    """
    check_choice("level", level, ("token", "sequence"))
    (now,), before = clean(mask, logps), constant(mask, old_logps)
    ratio = now - before
    if level == "sequence":
        mean = per_token(masked_sum(ratio, mask), lengths(mask))
        ratio = jnp.where(mask, mean[..., None], 0.0)
    return jnp.clip(ratio, -LARGEST, LARGEST)


def clipped_surrogate(
    ratio: Float[Array, "..."],
    advantages: Float[Array, "..."],
    *,
    epsilon: float,
    epsilon_high: float | None = None,
    delta: float | None = None,
) -> Float[Array, "..."]:
    """`-min(min(w, delta) A, clip(w, 1 - epsilon, 1 + epsilon_high) A)`, unmasked; kinks at the clips.

    For delta > 1 + epsilon_high this two-sided clip (arXiv:2505.07291) is PPO's dual clip (arXiv:1912.09729) at
    c = delta: both leave A > 0 alone and hold the loss of A < 0 at `-delta A`.
    """
    high = epsilon if epsilon_high is None else epsilon_high
    bounded = ratio if delta is None else at_most(ratio, delta)
    inside = jnp.clip(ratio, 1.0 - epsilon, 1.0 + high)
    return -jnp.minimum(bounded * advantages, inside * advantages)
