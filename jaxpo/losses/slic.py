"""Sequence likelihood calibration with human feedback (arXiv:2305.10425)."""

from __future__ import annotations

import jax
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import clean, keep


def slic(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    target_logps: Float[Array, "B"],
    *,
    delta: float = 1.0,
    lam: float = 1.0,
    where: Bool[Array, "B"] | None = None,
) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
    """SLiC-HF: rank calibration with a margin in nats, plus the likelihood of a target response. No reference model.

        L_cal = max(0, delta - P_w + P_l),    L_reg = -lambda log pi(y_target | x)

    Both are averaged over pairs; they are returned apart so that each can be looked at.

    Args:
      chosen_logps: `[B]` P_w, log-probability of the chosen response, summed over its tokens, in nats.
      rejected_logps: `[B]` P_l, the rejected response.
      target_logps: `[B]` log pi(y_target), summed: the answer the model was fine-tuned on, or the chosen response.
      delta: margin, in nats of the whole response.
      lam: weight of the regularising term (0.1 to 1).
      where: `[B]` False where there is no pair.

    Returns:
      `(L_cal [B], L_reg [B])`, float32, 0 where there is no pair.

    Limits: L_cal has no gradient once P_w - P_l >= delta (kink at delta: the derivative there is 0); lam = 0 leaves the
    calibration alone.

    Reference: Zhao et al. 2023, arXiv:2305.10425, the SLiC-HF loss.
    """
    p_w, p_l, target = clean(where, chosen_logps, rejected_logps, target_logps)
    return keep(where, jax.nn.relu(delta - p_w + p_l)), keep(where, -lam * target)
