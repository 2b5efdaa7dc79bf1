"""CISPO (arXiv:2506.13585): clipped importance weights on a plain policy gradient."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.importance import Level, constant, log_ratios, trained
from jaxpo.losses.numerics import clean


def cispo(
    logps: Float[Array, "N T"],
    old_logps: Float[Array, "N T"],
    advantages: Float[Array, "N T"],
    mask: Bool[Array, "N T"],
    *,
    epsilon_high: float = 5.0,
    epsilon_low: float = 0.0,
    importance_sampling_level: Level = "token",
    where: Bool[Array, "N"] | None = None,
) -> Float[Array, "N T"]:
    """The weight is clipped and takes no gradient, so that no token loses its gradient.

        l = -sg(clip(w, epsilon_low, epsilon_high)) A log pi,    w = exp(log pi - log pi_old)

    Args:
      logps: `[N, T]` log-probs of the answers' tokens, nats.
      old_logps: `[N, T]` under the policy that wrote them; no gradient.
      advantages: `[N, T]`; no gradient.
      mask: `[N, T]` True on the tokens that are trained on; the others may hold anything, NaN included.
      epsilon_high: the largest weight itself and not its distance from 1, as in TRL (verl's is 1 + epsilon_high).
      epsilon_low: the smallest weight; 0 = none, as in TRL.
      importance_sampling_level: one weight per "token", or per answer ("sequence").
      where: `[N]` False where there is no answer.

    Returns:
      `[N, T]` float32, 0 outside the mask; sum it and divide by the tokens of the step.

    Limits: its gradient at pi = pi_old is that of every clipped loss, -A. Its value says nothing.

    Reference: MiniMax 2025, arXiv:2506.13585.
    """
    on = trained(mask, where)
    now = clean(on, logps)[0]
    ratio = jnp.exp(log_ratios(logps, old_logps, on, level=importance_sampling_level))
    weight = jax.lax.stop_gradient(jnp.clip(ratio, epsilon_low, epsilon_high))
    return -weight * constant(on, advantages) * now
