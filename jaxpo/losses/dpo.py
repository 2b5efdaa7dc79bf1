"""Direct preference optimisation (arXiv:2305.18290)."""

from __future__ import annotations

from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import clean, keep, smoothed_logistic


def dpo(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    ref_chosen_logps: Float[Array, "B"],
    ref_rejected_logps: Float[Array, "B"],
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """Direct preference optimisation, with label smoothing (cDPO).

        h = beta ((P_w - R_w) - (P_l - R_l)),    L = (1 - e) softplus(-h) + e softplus(h)

    Args:
      chosen_logps: `[B]` P_w, log-probability of the chosen response, summed over its tokens, in nats.
      rejected_logps: `[B]` P_l, the rejected response.
      ref_chosen_logps: `[B]` R_w, the same under the frozen reference.
      ref_rejected_logps: `[B]` R_l.
      beta: strength of the tie to the reference (0.01 to 0.5).
      label_smoothing: e in [0, 0.5], probability that a label is flipped; 0 is DPO.
      where: `[B]` False where there is no pair.

    Returns:
      `[B]` float32 loss, 0 where there is no pair.

    Limits: log 2 at policy = reference, with slope -beta/2 in P_w; e = 1/2 is symmetric under a swap of the pair.

    Reference: Rafailov et al. 2023, arXiv:2305.18290, Eq. 7; smoothing: Mitchell 2023, "A note on DPO with noisy
    preferences".
    """
    p_w, p_l, r_w, r_l = clean(where, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    h = beta * ((p_w - r_w) - (p_l - r_l))
    return keep(where, smoothed_logistic(h, label_smoothing))
