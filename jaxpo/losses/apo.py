"""Anchored preference optimisation (arXiv:2408.06266)."""

from __future__ import annotations

import jax
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import clean, keep


def apo_zero(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    ref_chosen_logps: Float[Array, "B"],
    ref_rejected_logps: Float[Array, "B"],
    *,
    beta: float = 0.1,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """APO-zero: raise the chosen response and lower the rejected one, each by itself.

        L = sigmoid(-beta (P_w - R_w)) + sigmoid(beta (P_l - R_l))

    For models whose own answers are worse than the chosen ones.

    Args:
      chosen_logps: `[B]` P_w, log-probability of the chosen response, summed over its tokens, in nats.
      rejected_logps: `[B]` P_l, the rejected response.
      ref_chosen_logps: `[B]` R_w, the same under the frozen reference.
      ref_rejected_logps: `[B]` R_l.
      beta: strength of the tie to the reference.
      where: `[B]` False where there is no pair.

    Returns:
      `[B]` float32 loss, 0 where there is no pair.

    Limits: 1 at policy = reference, with slope -beta/4 in P_w and +beta/4 in P_l; slopes never exceed beta/4 and fade
    on either side, so that outliers pull little.

    Reference: D'Oosterlinck et al. 2024, arXiv:2408.06266, Eq. 7; TRL's `loss_type="apo_zero"`.
    """
    p_w, p_l, r_w, r_l = clean(where, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return keep(where, jax.nn.sigmoid(-beta * (p_w - r_w)) + jax.nn.sigmoid(beta * (p_l - r_l)))


def apo_down(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    ref_chosen_logps: Float[Array, "B"],
    ref_rejected_logps: Float[Array, "B"],
    *,
    beta: float = 0.1,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """APO-down: lower both responses, the rejected one more.

        L = sigmoid(beta (P_w - R_w)) + sigmoid(-beta ((P_w - R_w) - (P_l - R_l)))

    For models whose own answers are better than the chosen ones.

    Args, returns: as `apo_zero`.

    Limits: 1 at policy = reference, where the two slopes in P_w cancel and P_l has slope +beta/4.

    Reference: D'Oosterlinck et al. 2024, arXiv:2408.06266, Eq. 8; TRL's `loss_type="apo_down"`.
    """
    p_w, p_l, r_w, r_l = clean(where, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    a, b = beta * (p_w - r_w), beta * (p_l - r_l)
    return keep(where, jax.nn.sigmoid(a) + jax.nn.sigmoid(b - a))
