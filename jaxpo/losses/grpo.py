"""Group relative policy optimisation (arXiv:2402.03300): the clipped term of every token, and how terms are reduced."""

from __future__ import annotations

from typing import Literal, get_args

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.importance import Level, clipped_surrogate, constant, lengths, log_ratios, trained
from jaxpo.losses.numerics import check_choice, keep, masked_sum, per_token

LossType = Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo"]
PER_ANSWER = ("grpo", "sapo")
PER_TOKEN = ("bnpo", "dapo", "cispo", "vespo")


def grpo(
    logps: Float[Array, "N T"],
    old_logps: Float[Array, "N T"],
    advantages: Float[Array, "N T"],
    mask: Bool[Array, "N T"],
    *,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    delta: float | None = None,
    importance_sampling_level: Level = "token",
    where: Bool[Array, "N"] | None = None,
) -> Float[Array, "N T"]:
    """The clipped policy gradient term of every token of an answer.

        w = exp(log pi - log pi_old)      of the token, or of the answer's mean
        l = - min(min(w, delta) A, clip(w, 1 - epsilon, 1 + epsilon_high) A)

    Args:
      logps: `[N, T]` log-probs of the answers' tokens, nats.
      old_logps: `[N, T]` under the policy that ratios are taken over; no gradient.
      advantages: `[N, T]`; no gradient.
      mask: `[N, T]` True on the tokens that are trained on; the others may hold anything, NaN included.
      epsilon: how far the ratio may fall.
      epsilon_high: how far it may rise; None = epsilon.
      delta: bound on the ratio where the advantage is negative (two-sided clipping, arXiv 2505.07291); None = none.
      importance_sampling_level: "token", or "sequence" for one ratio per answer (GSPO, arXiv 2507.18071).
      where: `[N]` False where there is no answer.

    Returns:
      `[N, T]` float32; 0 outside the mask.

    Limits: at pi = pi_old it is -A, and its gradient that of -A log pi. Kinks at the clips and at log-ratios of +-20.

    Reference: Shao et al. 2024, arXiv:2402.03300, eq. 3; TRL's names.
    """
    check_choice("importance_sampling_level", importance_sampling_level, ("token", "sequence"))
    on = trained(mask, where)
    ratio = jnp.exp(log_ratios(logps, old_logps, on, level=importance_sampling_level))
    terms = clipped_surrogate(ratio, constant(on, advantages), epsilon=epsilon, epsilon_high=epsilon_high, delta=delta)
    return keep(on, terms)


def aggregated(
    terms: Float[Array, "N T"], mask: Bool[Array, "N T"], *, loss_type: LossType, max_completion_length: int
) -> dict[str, Float[Array, "N"]]:
    """An answer's share of the loss, under the name of the count that it is divided by.

        grpo, sapo: mean over its tokens, / answers         luspo: sum over its tokens, / answers
        bnpo, dapo, cispo, vespo: sum over its tokens, / tokens of the step
        dr_grpo: sum over its tokens / max_completion_length, / answers

    Denominators are those of a whole step, however it is accumulated: there bnpo and dapo are one.
    """
    check_choice("loss_type", loss_type, get_args(LossType))
    total = masked_sum(terms, mask)
    if loss_type in PER_TOKEN:
        return {"tokens": total}
    if loss_type in PER_ANSWER:
        return {"answers": per_token(total, lengths(mask))}
    return {"answers": total if loss_type == "luspo" else total / max_completion_length}
