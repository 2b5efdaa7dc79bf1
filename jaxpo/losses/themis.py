"""Tool-augmented reward modelling: a ranking after tool calls, which are learnt too (arXiv:2310.01045)."""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxpo.losses.bradley_terry import bradley_terry
from jaxpo.losses.numerics import check_choice, clean, keep, per_token

CALLS = 3
"""Tool calls that a trajectory may have."""
PARTS = 2 * CALLS + 2
"""Parts of a row: tool and observation of each call in turn, then rationale and answer."""


def part_weights(*, beta: float = 1.0, omega: float = 1.0, answer: bool = False) -> np.ndarray:
    """What the likelihood of each part counts, float32 `[PARTS]`: tools 1, observations beta, rationale omega."""
    return np.asarray([1.0, beta] * CALLS + [omega, float(answer)], np.float32)


def themis(
    chosen_rewards: Float[Array, "B"],
    rejected_rewards: Float[Array, "B"],
    chosen_logps: Float[Array, "B P"],
    rejected_logps: Float[Array, "B P"],
    chosen_tokens: Float[Array, "B P"],
    rejected_tokens: Float[Array, "B P"],
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    omega: float = 1.0,
    lm: bool = False,
    rank_weight: float = 1.0,
    normalisation: Literal["terms", "pooled"] = "terms",
    where: Bool[Array, "B"] | None = None,
) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
    """Bradley-Terry on rewards after tool use, and the likelihood of the calls, observations and rationales.

        L_rank = c softplus(-(r_w - r_l))
        terms:   L_lm = alpha / 2 sum over both rows [ sum_t (L_tool(t) + beta L_obs(t)) + omega L_rationale ]
        pooled:  L_lm = alpha sum over both rows and all their supervised tokens of -log p

    where each L of the terms is a mean over the tokens of its part. A step minimises `sum(L_rank) / pairs +
    sum(L_lm) / D`, D the number of pairs for "terms", that of the step's supervised tokens (`themis_tokens`) for
    "pooled".

    Args:
      chosen_rewards: `[B]` r_w, at the end of question, answer, trajectory and rationale.
      rejected_rewards: `[B]` r_l.
      chosen_logps: `[B, 8]` log-probs summed over the tokens of each part, in nats: tool and observation of the first,
        second and third call, rationale, answer.
      rejected_logps: `[B, 8]` of the rejected row, whose answer is never learnt.
      chosen_tokens: `[B, 8]` tokens of each part; 0 = there is none.
      rejected_tokens: `[B, 8]`.
      alpha: weight of the likelihood.
      beta: of observations in it, 0 or 1 in the paper; tokens of weight 0 are not supervised.
      omega: of rationales, likewise.
      lm: learn the chosen answer, too.
      rank_weight: c of the ranking.
      normalisation: see above; the paper leaves it open, the released code is "pooled" with c = 1/2.
      where: `[B]` False where there is no pair.

    Returns:
      `(L_rank [B], L_lm [B])`, float32, 0 where there is no pair.

    Limits: alpha = 0, or no token in any part: a Bradley-Terry reward model. The released form, c = 1/2 and alpha = 1,
    is half of c = 1 and alpha = 2 in the normalisation "pooled".

    Reference: Li et al. 2024, arXiv:2310.01045, Eq. 5 and 6; weights, masks and pooling: its authors' code.
    """
    check_choice("normalisation", normalisation, ("terms", "pooled"))
    rank = rank_weight * bradley_terry(chosen_rewards, rejected_rewards, where=where)
    rows = None if where is None else where[:, None]
    likelihood = jnp.zeros_like(rank)
    for logps, tokens, answer in (
        (chosen_logps, chosen_tokens, lm),
        (rejected_logps, rejected_tokens, False),
    ):
        weight = jnp.asarray(part_weights(beta=beta, omega=omega, answer=answer))
        counted = (weight > 0) & (tokens > 0) if rows is None else (weight > 0) & (tokens > 0) & rows
        p, n = clean(counted, logps, tokens)
        terms = -0.5 * per_token(p, n) if normalisation == "terms" else -p
        likelihood = likelihood + alpha * jnp.sum(weight * terms, axis=-1)
    return rank, keep(where, likelihood)


def themis_tokens(
    chosen_tokens: Float[Array, "B P"],
    rejected_tokens: Float[Array, "B P"],
    *,
    beta: float = 1.0,
    omega: float = 1.0,
    lm: bool = False,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """Supervised tokens of each pair, `[B]`: those of parts whose weight is not 0."""
    found = jnp.zeros(chosen_tokens.shape[0], jnp.float32)
    for tokens, answer in ((chosen_tokens, lm), (rejected_tokens, False)):
        found = found + jnp.sum(
            jnp.where(part_weights(beta=beta, omega=omega, answer=answer) > 0, tokens, 0.0), axis=-1
        )
    return keep(where, found)
