"""Efficient exact optimisation from pairs, EXO-pref (arXiv:2402.00856)."""

from __future__ import annotations

import math

import jax
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import clean, keep, softplus


def exo_pair(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    ref_chosen_logps: Float[Array, "B"],
    ref_rejected_logps: Float[Array, "B"],
    *,
    beta: float = 0.1,
    label_smoothing: float = 1e-3,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """EXO for pairs: reverse KL from the policy's preference to the smoothed label, where DPO has the forward KL.

        h = beta ((P_w - R_w) - (P_l - R_l)),    q = sigmoid(h)
        L = KL([q, 1 - q] || [1 - e, e]) = q (log q - log(1 - e)) + (1 - q)(log(1 - q) - log e)

    Args:
      chosen_logps: `[B]` P_w, log-probability of the chosen response, summed over its tokens, in nats.
      rejected_logps: `[B]` P_l, the rejected response.
      ref_chosen_logps: `[B]` R_w, the same under the frozen reference.
      ref_rejected_logps: `[B]` R_l.
      beta: strength of the tie to the reference (beta_pi of the paper).
      label_smoothing: e in (0, 1/2], probability that a label is flipped; 0 would make the divergence infinite.
      where: `[B]` False where there is no pair.

    Returns:
      `[B]` float32 loss, 0 where there is no pair.

    Limits: 0 exactly at h = log((1 - e) / e) and two-sided about it, unlike DPO: the margin stays finite. It is EXO for
    two responses with rewards log(1 - e) and log e.

    Reference: Ji et al. 2024, arXiv:2402.00856, Eq. 16; TRL's `loss_type="exo_pair"`.
    """
    p_w, p_l, r_w, r_l = clean(where, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    h = beta * ((p_w - r_w) - (p_l - r_l))
    win = jax.nn.sigmoid(h) * (-softplus(-h) - math.log1p(-label_smoothing))
    lose = jax.nn.sigmoid(-h) * (-softplus(h) - math.log(label_smoothing))
    return keep(where, win + lose)
