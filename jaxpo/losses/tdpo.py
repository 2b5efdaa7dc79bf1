"""Token-level direct preference optimisation (arXiv:2404.11999)."""

from __future__ import annotations

import jax
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import clean, keep, softplus


def tdpo1(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    ref_chosen_logps: Float[Array, "B"],
    ref_rejected_logps: Float[Array, "B"],
    chosen_kl: Float[Array, "B"],
    rejected_kl: Float[Array, "B"],
    *,
    beta: float = 0.1,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """TDPO1: DPO whose margin is corrected by the difference of the two sides' sequential forward KL.

        D = (P_w - R_w) - (P_l - R_l),    L = softplus(-beta (D - (K_l - K_w)))

    Args:
      chosen_logps: `[B]` P_w, summed over the chosen response's tokens, in nats.
      rejected_logps: `[B]` P_l.
      ref_chosen_logps: `[B]` R_w under the frozen reference.
      ref_rejected_logps: `[B]` R_l.
      chosen_kl: `[B]` K_w, sum over the chosen response's tokens of KL(reference || policy) over the whole vocabulary,
        >= 0, in nats. Differentiated: minimising the loss raises it.
      rejected_kl: `[B]` K_l, likewise; minimising the loss lowers it.
      beta: strength of the tie to the reference.
      where: `[B]` False where there is no pair.

    Returns:
      `[B]` float32 loss, 0 where there is no pair.

    Limits: equal KL on both sides is DPO in value. The value is `tdpo2`'s at alpha = 1, whose gradient leaves K_w out.

    Reference: Zeng et al. 2024, arXiv:2404.11999, the TDPO1 objective.
    """
    p_w, p_l, r_w, r_l, k_w, k_l = clean(
        where, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, chosen_kl, rejected_kl
    )
    return keep(where, softplus(-beta * ((p_w - r_w) - (p_l - r_l) - (k_l - k_w))))


def tdpo2(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    ref_chosen_logps: Float[Array, "B"],
    ref_rejected_logps: Float[Array, "B"],
    chosen_kl: Float[Array, "B"],
    rejected_kl: Float[Array, "B"],
    *,
    beta: float = 0.1,
    alpha: float = 0.5,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """TDPO2: DPO whose margin is corrected by the difference of the two sides' sequential forward KL.

        D = (P_w - R_w) - (P_l - R_l),    L = softplus(-beta (D - alpha (K_l - sg(K_w))))

    Args:
      chosen_logps: `[B]` P_w, summed over the chosen response's tokens, in nats.
      rejected_logps: `[B]` P_l.
      ref_chosen_logps: `[B]` R_w under the frozen reference.
      ref_rejected_logps: `[B]` R_l.
      chosen_kl: `[B]` K_w, sum over the chosen response's tokens of KL(reference || policy) over the whole vocabulary,
        >= 0, in nats. No gradient passes through it.
      rejected_kl: `[B]` K_l.
      beta: strength of the tie to the reference.
      alpha: weight of the KL difference.
      where: `[B]` False where there is no pair.

    Returns:
      `[B]` float32 loss, 0 where there is no pair.

    Limits: alpha = 0 is DPO; alpha = 1 has the value of TDPO1, but not its gradient (TDPO1 differentiates K_w too).

    Reference: Zeng et al. 2024, arXiv:2404.11999, the TDPO2 objective.
    """
    p_w, p_l, r_w, r_l, k_w, k_l = clean(
        where, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, chosen_kl, rejected_kl
    )
    margin = (p_w - r_w) - (p_l - r_l) - alpha * (k_l - jax.lax.stop_gradient(k_w))
    return keep(where, softplus(-beta * margin))
