"""Identity preference optimisation (arXiv:2310.12036)."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.length_normalized import length_normalized, squared
from jaxpo.losses.numerics import clean, keep


def ipo(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    ref_chosen_logps: Float[Array, "B"],
    ref_rejected_logps: Float[Array, "B"],
    chosen_lengths: Float[Array, "B"],
    rejected_lengths: Float[Array, "B"],
    *,
    beta: float = 0.1,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """IPO on means per token: the difference of log-ratios is drawn to 1/(2 beta) instead of growing without bound.

        L = ((P_w - R_w) / |y_w| - (P_l - R_l) / |y_l| - 1 / (2 beta))^2

    The paper writes sums (`ipo_sum`); its authors told TRL's that their results come from means per token.

    Args:
      chosen_logps: `[B]` P_w, log-probability of the chosen response, summed over its tokens, in nats.
      rejected_logps: `[B]` P_l, the rejected response.
      ref_chosen_logps: `[B]` R_w, the same under the frozen reference.
      ref_rejected_logps: `[B]` R_l.
      chosen_lengths: `[B]` |y_w| in tokens.
      rejected_lengths: `[B]` |y_l|.
      beta: tau of the paper, strength of the tie to the reference.
      where: `[B]` False where there is no pair.

    Returns:
      `[B]` float32 loss; 0 where there is no pair or no token on either side.

    Limits: 1 / (4 beta^2) at policy = reference. It is the member of `length_normalized` with f = `squared`, m = 1/2
    and omega = 1 / beta^2. One token on either side: `ipo_sum`.

    Reference: Azar et al. 2023, arXiv:2310.12036, Eq. 17; TRL's `loss_type="ipo"`.
    """
    return length_normalized(
        chosen_logps,
        rejected_logps,
        ref_chosen_logps,
        ref_rejected_logps,
        chosen_lengths,
        rejected_lengths,
        beta=beta,
        relative=squared,
        margin=0.5,
        omega=1.0 / beta**2,
        where=where,
    )


def ipo_sum(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    ref_chosen_logps: Float[Array, "B"],
    ref_rejected_logps: Float[Array, "B"],
    *,
    beta: float = 0.1,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """IPO on sums, as the paper writes it.

        L = ((P_w - R_w) - (P_l - R_l) - 1 / (2 beta))^2

    Args:
      chosen_logps: `[B]` P_w, log-probability of the chosen response, summed over its tokens, in nats.
      rejected_logps: `[B]` P_l, the rejected response.
      ref_chosen_logps: `[B]` R_w, the same under the frozen reference.
      ref_rejected_logps: `[B]` R_l.
      beta: tau of the paper, strength of the tie to the reference.
      where: `[B]` False where there is no pair.

    Returns:
      `[B]` float32 loss, 0 where there is no pair.

    Limits: 1 / (4 beta^2) at policy = reference; 0 exactly where the margin is 1 / (2 beta), whatever the length.

    Reference: Azar et al. 2023, arXiv:2310.12036, Eq. 17.
    """
    p_w, p_l, r_w, r_l = clean(where, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return keep(where, jnp.square((p_w - r_w) - (p_l - r_l) - 1.0 / (2.0 * beta)))
