"""Contrastive preference optimisation (arXiv:2401.08417)."""

from __future__ import annotations

from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import clean, keep, smoothed_logistic


def cpo(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    *,
    beta: float = 0.1,
    alpha: float = 1.0,
    label_smoothing: float = 0.0,
    where: Bool[Array, "B"] | None = None,
) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
    """CPO: DPO against a uniform reference, plus the negative log-likelihood of the chosen response.

        h = beta (P_w - P_l),    L_prefer = (1 - e) softplus(-h) + e softplus(h),    L_nll = -alpha P_w

    The two terms have different denominators: a step minimises `sum(L_prefer) / pairs + sum(L_nll) / chosen tokens`,
    both counted over the whole step. That is why they are returned apart.

    Args:
      chosen_logps: `[B]` P_w, summed over the chosen response's tokens, in nats.
      rejected_logps: `[B]` P_l.
      beta: reward scale.
      alpha: weight of the likelihood term. TRL's `cpo_alpha`.
      label_smoothing: e, probability that a label is flipped.
      where: `[B]` False where there is no pair.

    Returns:
      `(L_prefer [B], L_nll [B])`, float32, 0 where there is no pair.

    Limits: alpha = 0 is DPO with equal reference log-probs.

    Reference: Xu et al. 2024, arXiv:2401.08417, Eq. 3 and the objective that follows it.
    """
    p_w, p_l = clean(where, chosen_logps, rejected_logps)
    return keep(where, smoothed_logistic(beta * (p_w - p_l), label_smoothing)), keep(where, -alpha * p_w)
