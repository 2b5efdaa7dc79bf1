"""RLOO (arXiv:2402.14740): the answer as one action, compared with the others of its group."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.importance import LARGEST, clipped_surrogate, constant, log_ratios, trained
from jaxpo.losses.numerics import keep, masked_sum
from jaxpo.losses.recurrence import A, namespace, under


def rloo(
    logps: Float[Array, "N T"],
    old_logps: Float[Array, "N T"],
    advantages: Float[Array, "N"],
    mask: Bool[Array, "N T"],
    *,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    where: Bool[Array, "N"] | None = None,
) -> Float[Array, "N"]:
    """The clipped policy gradient term of every answer.

        w = exp(sum_t (log pi - log pi_old)),    L = -min(w A, clip(w, 1 - epsilon, 1 + epsilon_high) A)

    Args:
      logps: `[N, T]` log-probs of the answers' tokens, nats.
      old_logps: `[N, T]` under the policy that wrote them; no gradient.
      advantages: `[N]` reward less the mean of the others of its group; no gradient.
      mask: `[N, T]` True on the tokens that are trained on; the others may hold anything, NaN included.
      epsilon: how far the ratio may fall.
      epsilon_high: how far it may rise; None = epsilon.
      where: `[N]` False where there is no answer.

    Returns:
      `[N]` float32, 0 where there is no answer or no token; average over answers.

    Limits: -A at pi = pi_old, with the gradient of -A sum_t log pi. Kinks at the clips, and where the log-ratio of an
    answer or of a token is +-20.

    Reference: Ahmadian et al. 2024, arXiv:2402.14740; clipped as in TRL's RLOO trainer.
    """
    on = trained(mask, where)
    some = jnp.any(on, axis=-1)
    total = jnp.clip(masked_sum(log_ratios(logps, old_logps, on), on), -LARGEST, LARGEST)
    terms = clipped_surrogate(jnp.exp(total), constant(some, advantages), epsilon=epsilon, epsilon_high=epsilon_high)
    return keep(some, terms)


def kl_shaped_rewards(
    rewards: Float[A, "N"],
    old_logps: Float[A, "N T"],
    ref_logps: Float[A, "N T"],
    mask: Bool[A, "N T"],
    *,
    beta: float = 0.05,
) -> Float[A, "N"]:
    """Rewards of answers less their KL to the reference, before they are compared in the group.

        r' = r - beta sum_t (log pi_old - log ref)

    Args:
      rewards: `[N]`, numpy or jax.
      old_logps: `[N, T]` of the policy that wrote the answers, nats.
      ref_logps: `[N, T]` of the reference.
      mask: `[N, T]` True on the tokens that the model wrote; the others may hold anything, NaN included.
      beta: weight of the KL.

    Returns:
      `[N]` of the kind given. A constant of the update; made in the source.

    Reference: Ahmadian et al. 2024, arXiv:2402.14740; beta as in TRL's RLOO trainer.
    """
    gap = under(mask, old_logps) - under(mask, ref_logps)
    return rewards - beta * namespace(gap).sum(gap, axis=-1)
