"""Length-regularised direct preference optimisation, R-DPO (arXiv:2403.19159)."""

from __future__ import annotations

from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import clean, keep, softplus


def rdpo_length(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    ref_chosen_logps: Float[Array, "B"],
    ref_rejected_logps: Float[Array, "B"],
    chosen_lengths: Float[Array, "B"],
    rejected_lengths: Float[Array, "B"],
    *,
    beta: float = 0.1,
    alpha: float = 0.05,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """R-DPO: DPO for a reward from which alpha per token is taken off.

        h = beta ((P_w - R_w) - (P_l - R_l)),    L = softplus(-(h + alpha (|y_w| - |y_l|)))

    The optimum of E[r - alpha |y|] - beta KL has r = beta log(pi / ref) + alpha |y| + const, which gives the sign: a
    longer chosen response has part of its win explained by its length, and pulls less.

    Args:
      chosen_logps: `[B]` P_w, log-probability of the chosen response, summed over its tokens, in nats.
      rejected_logps: `[B]` P_l, the rejected response.
      ref_chosen_logps: `[B]` R_w, the same under the frozen reference.
      ref_rejected_logps: `[B]` R_l.
      chosen_lengths: `[B]` |y_w| in tokens.
      rejected_lengths: `[B]` |y_l|.
      beta: strength of the tie to the reference.
      alpha: price of a token, in units of reward (0.05 to 1).
      where: `[B]` False where there is no pair.

    Returns:
      `[B]` float32 loss, 0 where there is no pair.

    Limits: alpha = 0, or equal lengths, is DPO.

    Reference: Park et al. 2024, arXiv:2403.19159, the length-regularised objective.
    """
    p_w, p_l, r_w, r_l, n_w, n_l = clean(
        where,
        chosen_logps,
        rejected_logps,
        ref_chosen_logps,
        ref_rejected_logps,
        chosen_lengths,
        rejected_lengths,
    )
    h = beta * ((p_w - r_w) - (p_l - r_l))
    return keep(where, softplus(-(h + alpha * (n_w - n_l))))
