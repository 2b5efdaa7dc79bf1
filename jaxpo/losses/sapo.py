"""Soft adaptive policy optimisation (arXiv:2511.20347): a smooth gate in the place of clips."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.importance import Level, constant, log_ratios, trained
from jaxpo.losses.numerics import keep


def sapo(
    logps: Float[Array, "N T"],
    old_logps: Float[Array, "N T"],
    advantages: Float[Array, "N T"],
    mask: Bool[Array, "N T"],
    *,
    sapo_temperature_pos: float = 1.0,
    sapo_temperature_neg: float = 1.05,
    importance_sampling_level: Level = "token",
    where: Bool[Array, "N"] | None = None,
) -> Float[Array, "N T"]:
    """The ratio passes through a sigmoid around 1, sharper where the advantage is not positive.

        l = -(4 / tau) sigmoid(tau (w - 1)) A,    w = exp(log pi - log pi_old)

    Args:
      logps: `[N, T]` log-probs of the answers' tokens, nats.
      old_logps: `[N, T]` under the policy that wrote them; no gradient.
      advantages: `[N, T]`; no gradient.
      mask: `[N, T]` True on the tokens that are trained on; the others may hold anything, NaN included.
      sapo_temperature_pos: tau where A > 0.
      sapo_temperature_neg: tau elsewhere.
      importance_sampling_level: one ratio per "token", or per answer ("sequence").
      where: `[N]` False where there is no answer.

    Returns:
      `[N, T]` float32, 0 outside the mask; average over an answer's tokens, then over answers.

    Limits: -2 A / tau at pi = pi_old, with the gradient of -A log pi for every tau. Kinks at a log-ratio of +-20.

    Reference: Gao et al. 2025, arXiv:2511.20347; TRL's names.
    """
    on = trained(mask, where)
    a = constant(on, advantages)
    tau = jnp.where(a > 0, sapo_temperature_pos, sapo_temperature_neg)
    ratio = jnp.exp(log_ratios(logps, old_logps, on, level=importance_sampling_level))
    return keep(on, -jax.nn.sigmoid(tau * (ratio - 1.0)) * 4.0 / tau * a)
