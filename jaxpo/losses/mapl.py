"""Multi-level aware preference learning (arXiv:2505.12845)."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import both, clean, keep, softplus


def mapl(
    chosen_scores: Float[Array, "B"],
    rejected_scores: Float[Array, "B"],
    plus_scores: Float[Array, "B E"],
    minus_scores: Float[Array, "B E"],
    inter_chosen_scores: Float[Array, "B"],
    inter_rejected_scores: Float[Array, "B"],
    inter_sign: Float[Array, "B"],
    *,
    intra_weight: float = 1.0,
    inter_weight: float = 1.0,
    where: Bool[Array, "B"] | None = None,
    where_intra: Bool[Array, "B E"] | None = None,
    where_inter: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """MAPL: a pair loss, which of two prompts a response fits, and how clear-cut the pair is under another prompt.

        L = softplus(-(q(x, y_w) - q(x, y_l))) + w_intra mean_e L_intra,e + w_inter L_inter

    with `mapl_intra` and `mapl_inter`. The score q(x, y) is a reward model's reward, or beta (P - R) of the response
    under the prompt, summed over tokens: the same function serves reward models and DPO.

    Args:
      chosen_scores: `[B]` q(x, y_w).
      rejected_scores: `[B]` q(x, y_l).
      plus_scores: `[B, E]` q(x+, y) of up to E responses of the row (the chosen and the rejected one) under the prompt
        whose instructions they meet better.
      minus_scores: `[B, E]` q(x-, y) of the same responses under the other prompt.
      inter_chosen_scores: `[B]` q(x', y_w), the chosen response under the prompt with added instructions.
      inter_rejected_scores: `[B]` q(x', y_l).
      inter_sign: `[B]` +1 where the added instructions make the preference clearer, -1 where they weaken or reverse it.
      intra_weight: w_intra.
      inter_weight: w_inter.
      where: `[B]` False where there is no pair.
      where_intra: `[B, E]` False where there is no such pair of prompts; the mean runs over those that there are.
      where_inter: `[B]` False where there is no second prompt for the pair.

    Returns:
      `[B]` float32 loss, 0 where there is no pair; a row without prompts of its own has its pair loss alone.

    Limits: both weights 0 give Bradley-Terry, and DPO for q = beta (P - R).

    Reference: Sun et al. 2025, arXiv:2505.12845. The inter term is reconstructed and the weights are unknown.
    """
    q_w, q_l = clean(where, chosen_scores, rejected_scores)
    intra_here = jnp.ones(plus_scores.shape, bool) if where_intra is None else where_intra
    intra_here = intra_here if where is None else intra_here & where[:, None]
    intra = jnp.sum(mapl_intra(plus_scores, minus_scores, where=intra_here), axis=-1)
    intra = intra / jnp.maximum(jnp.sum(intra_here, axis=-1), 1)
    inter_here = where_inter if where is None else both(where_inter, where)
    inter = mapl_inter(
        chosen_scores, rejected_scores, inter_chosen_scores, inter_rejected_scores, inter_sign, where=inter_here
    )
    return keep(where, softplus(q_l - q_w) + intra_weight * intra + inter_weight * inter)


def mapl_intra(
    plus_scores: Float[Array, "..."], minus_scores: Float[Array, "..."], *, where: Bool[Array, "..."] | None = None
) -> Float[Array, "..."]:
    """Response-conditioned Bradley-Terry: `softplus(-(q(x+, y) - q(x-, y)))`, the prompt x+ fits the response better.

    With q = beta (P - R) this is an approximation: the log-partition terms of two prompts do not cancel, so a constant
    added to one prompt's scores changes the loss.

    Args:
      plus_scores: `[...]` q(x+, y).
      minus_scores: `[...]` q(x-, y), of the same response.
      where: False where there is none.

    Returns:
      `[...]` float32 loss, 0 where there is none.

    Reference: Sun et al. 2025, arXiv:2505.12845; the response-conditioned form of the same group's reward models.
    """
    plus, minus = clean(where, plus_scores, minus_scores)
    return keep(where, softplus(minus - plus))


def mapl_inter(
    chosen_scores: Float[Array, "B"],
    rejected_scores: Float[Array, "B"],
    inter_chosen_scores: Float[Array, "B"],
    inter_rejected_scores: Float[Array, "B"],
    inter_sign: Float[Array, "B"],
    *,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """Which of two prompts makes a pair's preference clearer: `softplus(-s (g' - g))` on the gaps of the pair.

        g = q(x, y_w) - q(x, y_l),    g' = q(x', y_w) - q(x', y_l)

    Args:
      chosen_scores: `[B]` q(x, y_w).
      rejected_scores: `[B]` q(x, y_l).
      inter_chosen_scores: `[B]` q(x', y_w).
      inter_rejected_scores: `[B]` q(x', y_l).
      inter_sign: `[B]` s, +1 or -1.
      where: `[B]` False where there is none.

    Returns:
      `[B]` float32 loss, 0 where there is none.

    Limits: log 2 where x' changes no gap; g = 0 gives the pair loss under x'; exchanging the prompts and flipping s
    changes nothing, nor does a constant added to all scores of one prompt.

    Reference: reconstructed; Sun et al. 2025, arXiv:2505.12845, say that it compares preference strengths of samples.
    """
    q_w, q_l, i_w, i_l, s = clean(
        where, chosen_scores, rejected_scores, inter_chosen_scores, inter_rejected_scores, inter_sign
    )
    return keep(where, softplus(-s * ((i_w - i_l) - (q_w - q_l))))
