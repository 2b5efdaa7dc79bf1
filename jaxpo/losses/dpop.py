"""DPO-positive, also Smaug (arXiv:2402.13228)."""

from __future__ import annotations

import jax
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import clean, keep, softplus


def dpop(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    ref_chosen_logps: Float[Array, "B"],
    ref_rejected_logps: Float[Array, "B"],
    *,
    beta: float = 0.3,
    lam: float = 50.0,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """DPOP: DPO that fines a chosen response for becoming less likely than under the reference.

        D = (P_w - R_w) - (P_l - R_l),    L = softplus(-beta (D - lambda max(0, R_w - P_w)))

    Args:
      chosen_logps: `[B]` P_w, log-probability of the chosen response, summed over its tokens, in nats.
      rejected_logps: `[B]` P_l, the rejected response.
      ref_chosen_logps: `[B]` R_w, the same under the frozen reference.
      ref_rejected_logps: `[B]` R_l.
      beta: strength of the tie to the reference.
      lam: weight of the fine (5 to 500).
      where: `[B]` False where there is no pair.

    Returns:
      `[B]` float32 loss, 0 where there is no pair.

    Limits: lam = 0, or P_w >= R_w, is DPO. Where P_w < R_w the slope in P_w is 1 + lam times DPO's factor. Kink at
    P_w = R_w, where training starts: the derivative there is DPO's, without the fine.

    Reference: Pal et al. 2024, arXiv:2402.13228, the DPOP objective.
    """
    p_w, p_l, r_w, r_l = clean(where, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    margin = (p_w - r_w) - (p_l - r_l) - lam * jax.nn.relu(r_w - p_w)
    return keep(where, softplus(-beta * margin))
