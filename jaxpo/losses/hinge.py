"""Hinge loss on normalised likelihoods: RSO's hinge-norm (arXiv:2309.06657)."""

from __future__ import annotations

import jax
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import clean, keep


def hinge(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    ref_chosen_logps: Float[Array, "B"],
    ref_rejected_logps: Float[Array, "B"],
    *,
    beta: float = 0.05,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """Hinge-norm: SLiC's margin on log-ratios instead of log-probs; pairs beyond the margin give no gradient.

        h = beta ((P_w - R_w) - (P_l - R_l)),    L = max(0, 1 - h)

    Args:
      chosen_logps: `[B]` P_w, log-probability of the chosen response, summed over its tokens, in nats.
      rejected_logps: `[B]` P_l, the rejected response.
      ref_chosen_logps: `[B]` R_w, the same under the frozen reference.
      ref_rejected_logps: `[B]` R_l.
      beta: gamma of the paper, strength of the tie to the reference.
      where: `[B]` False where there is no pair.

    Returns:
      `[B]` float32 loss, 0 where there is no pair.

    Limits: 1 at policy = reference; at least the 0/1 error of the pair's order; with a constant reference it is SLiC's
    calibration term at delta = 1 on beta P. Kink at h = 1: the derivative there is 0.

    Reference: Liu et al. 2023, arXiv:2309.06657, hinge-norm; TRL's `loss_type="hinge"`, which cites SLiC for it.
    """
    p_w, p_l, r_w, r_l = clean(where, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return keep(where, jax.nn.relu(1.0 - beta * ((p_w - r_w) - (p_l - r_l))))
