"""Discovered preference optimisation, DiscoPOP (arXiv:2406.08414)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import clean, keep, softplus


def discopop(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    ref_chosen_logps: Float[Array, "B"],
    ref_rejected_logps: Float[Array, "B"],
    *,
    beta: float = 0.05,
    tau: float = 0.05,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """DiscoPOP, the log-ratio modulated loss: logistic for wrongly ordered pairs, exponential for rightly ordered ones.

        h = beta ((P_w - R_w) - (P_l - R_l)),    m = sigmoid(h / tau),    L = (1 - m) softplus(-h) + m e^-h

    Args:
      chosen_logps: `[B]` P_w, log-probability of the chosen response, summed over its tokens, in nats.
      rejected_logps: `[B]` P_l, the rejected response.
      ref_chosen_logps: `[B]` R_w, the same under the frozen reference.
      ref_rejected_logps: `[B]` R_l.
      beta: strength of the tie to the reference.
      tau: temperature of the blend, in (0, 1]; above 1 the second term grows without bound for wrongly ordered pairs.
        TRL's `discopop_tau`.
      where: `[B]` False where there is no pair.

    Returns:
      `[B]` float32 loss, 0 where there is no pair.

    Limits: (log 2 + 1) / 2 at policy = reference; h -> -infinity is DPO; not convex near h = 0.

    Reference: Lu et al. 2024, arXiv:2406.08414, Eq. 5; TRL's `loss_type="discopop"`.
    """
    p_w, p_l, r_w, r_l = clean(where, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    h = beta * ((p_w - r_w) - (p_l - r_l))
    # log m is added inside the exponential: e^-h alone overflows where m is 0.
    exponential = jnp.exp(-h - softplus(-h / tau))
    return keep(where, jax.nn.sigmoid(-h / tau) * softplus(-h) + exponential)
