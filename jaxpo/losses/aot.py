"""Distributional preference alignment via optimal transport (arXiv:2406.05882)."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import clean, keep, smoothed_logistic


def aot(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    ref_chosen_logps: Float[Array, "B"],
    ref_rejected_logps: Float[Array, "B"],
    *,
    beta: float = 0.01,
    label_smoothing: float = 0.0,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """AOT, paired: the policy's margins should dominate the reference's as distributions, quantile by quantile.

        u = sort(P_w - P_l),    v = sort(R_w - R_l),    L_(i) = (1 - e) softplus(-beta (u_i - v_i)) + e softplus(...)

    Couples the batch: the arguments must hold the whole batch of the step. Entry i of the result belongs to the i-th
    smallest margin, not to pair i; only the sum has a meaning.

    Args:
      chosen_logps: `[B]` P_w, summed over the chosen response's tokens, in nats.
      rejected_logps: `[B]` P_l.
      ref_chosen_logps: `[B]` R_w under the frozen reference.
      ref_rejected_logps: `[B]` R_l.
      beta: strength of the tie to the reference.
      label_smoothing: e, probability that a label is flipped.
      where: `[B]` False where there is no pair; such rows take no part in the sort.

    Returns:
      `[B]` float32 loss by rank; 0 for the ranks beyond the number of pairs.

    Limits: a batch of one pair is DPO. Permuting the policy's margins against the reference's changes nothing.
    Kink where two of the policy's margins are equal: the derivatives there are those of their input order.

    Reference: Melnyk et al. 2024, arXiv:2406.05882, the paired variant of Section 3; TRL's `loss_type="aot"`.
    """
    p_w, p_l, r_w, r_l = clean(where, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return _matched(p_w - p_l, r_w - r_l, beta, label_smoothing, where)


def aot_unpaired(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    ref_chosen_logps: Float[Array, "B"],
    ref_rejected_logps: Float[Array, "B"],
    *,
    beta: float = 0.01,
    label_smoothing: float = 0.0,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """AOT, unpaired: the chosen responses' rewards should dominate the rejected ones' as distributions.

        u = sort(P_w - R_w),    v = sort(P_l - R_l),    L_(i) = (1 - e) softplus(-beta (u_i - v_i)) + e softplus(...)

    Couples the batch. Args and returns as `aot`.

    Limits: a batch of one pair is DPO. Permuting the chosen responses against the rejected ones changes nothing: which
    two share a prompt does not matter. Kink at equal rewards of either side, as in `aot`.

    Reference: Melnyk et al. 2024, arXiv:2406.05882, the unpaired variant of Section 3; TRL's
    `loss_type="aot_unpaired"`, once `"aot_pair"`.
    """
    p_w, p_l, r_w, r_l = clean(where, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return _matched(p_w - r_w, p_l - r_l, beta, label_smoothing, where)


def _matched(u: Array, v: Array, beta: float, label_smoothing: float, where: Array | None) -> Array:
    if where is None:
        return smoothed_logistic(beta * (jnp.sort(u) - jnp.sort(v)), label_smoothing)
    ranks = jnp.arange(u.shape[0]) < jnp.sum(where)
    # Absent rows sort to the end on both sides; their infinities are replaced before they can meet.
    u, v = (jnp.where(ranks, jnp.sort(jnp.where(where, x, jnp.inf)), 0.0) for x in (u, v))
    return keep(ranks, smoothed_logistic(beta * (u - v), label_smoothing))
