"""Length-unbiased sequence policy optimisation (arXiv:2602.05261): GSPO whose answers count by their length."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.importance import Level, clipped_surrogate, constant, log_ratios, trained
from jaxpo.losses.numerics import masked_sum


def luspo(
    logps: Float[Array, "N T"],
    old_logps: Float[Array, "N T"],
    advantages: Float[Array, "N T"],
    mask: Bool[Array, "N T"],
    *,
    epsilon: float = 2e-3,
    epsilon_high: float | None = 2.5e-3,
    delta: float | None = None,
    importance_sampling_level: Level = "sequence",
    where: Bool[Array, "N"] | None = None,
) -> Float[Array, "N"]:
    """The clipped term of an answer's one ratio, summed over its tokens.

        L = -sum_t min(s A_t, clip(s, 1 - epsilon, 1 + epsilon_high) A_t),    s = exp(mean_t (log pi - log pi_old))

    Args:
      logps: `[N, T]` log-probs of the answers' tokens, nats.
      old_logps: `[N, T]` under the policy that wrote them; no gradient.
      advantages: `[N, T]`; no gradient.
      mask: `[N, T]` True on the tokens that are trained on; the others may hold anything, NaN included.
      epsilon: how far the ratio may fall.
      epsilon_high: how far it may rise; None = epsilon.
      delta: bound on the ratio where the advantage is negative; None = none.
      importance_sampling_level: "sequence"; TRL allows "token" too.
      where: `[N]` False where there is no answer.

    Returns:
      `[N]` float32, 0 where there is no answer; average over answers.

    Limits: GSPO's loss of an answer times its length, so that its gradient in log pi_t is -A s, whatever the length.
    Kinks at the clips and at a mean log-ratio of +-20.

    Reference: arXiv:2602.05261, as in TRL's GRPO trainer.
    """
    on = trained(mask, where)
    ratio = jnp.exp(log_ratios(logps, old_logps, on, level=importance_sampling_level))
    a = constant(on, advantages)
    return masked_sum(clipped_surrogate(ratio, a, epsilon=epsilon, epsilon_high=epsilon_high, delta=delta), on)
