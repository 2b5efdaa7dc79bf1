"""SimPO with a bent reward, AlphaPO (arXiv:2501.03884)."""

from __future__ import annotations

from jaxtyping import Array, Bool, Float

from jaxpo.losses.fdpo import deformed_log
from jaxpo.losses.numerics import both, clean, keep, per_token, smoothed_logistic


def alphapo(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    chosen_lengths: Float[Array, "B"],
    rejected_lengths: Float[Array, "B"],
    *,
    alpha: float = 0.25,
    beta: float = 2.5,
    gamma: float = 0.1,
    label_smoothing: float = 0.0,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """AlphaPO: SimPO whose mean log-prob a is replaced by (1 - e^(-alpha a)) / alpha. No reference model.

        s(a) = (1 - e^(-alpha a)) / alpha,    h = beta (s(P_w / |y_w|) - s(P_l / |y_l|)) - gamma
        L = (1 - e) softplus(-h) + e softplus(h)

    Args:
      chosen_logps: `[B]` P_w, log-probability of the chosen response, summed over its tokens, in nats.
      rejected_logps: `[B]` P_l, the rejected response.
      chosen_lengths: `[B]` |y_w| in tokens.
      rejected_lengths: `[B]` |y_l|.
      alpha: shape of the reward, of either sign; positive values tell unlikely responses further apart.
      beta: reward scale.
      gamma: target reward margin. TRL's `simpo_gamma`.
      label_smoothing: e, probability that a label is flipped.
      where: `[B]` False where there is no pair.

    Returns:
      `[B]` float32 loss; 0 where there is no pair or no token on either side.

    Limits: alpha -> 0 is SimPO. The exponent -alpha a stops at 80, beyond which the reward is flat; kink at 80: the
    slope there is that of the exponential.

    Reference: Gupta et al. 2025, arXiv:2501.03884, the AlphaPO objective; TRL's `loss_type="alphapo"`.
    """
    where = both(where, chosen_lengths + rejected_lengths > 0)
    p_w, p_l, n_w, n_l = clean(where, chosen_logps, rejected_logps, chosen_lengths, rejected_lengths)
    chosen, rejected = (deformed_log(per_token(p, n), alpha) for p, n in ((p_w, n_w), (p_l, n_l)))
    return keep(where, smoothed_logistic(beta * (chosen - rejected) - gamma, label_smoothing))
