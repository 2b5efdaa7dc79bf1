"""Self-play preference optimisation with hard win probabilities (arXiv:2405.00675)."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import clean, keep


def sppo_hard(
    chosen_logps: Float[Array, "B"],
    rejected_logps: Float[Array, "B"],
    ref_chosen_logps: Float[Array, "B"],
    ref_rejected_logps: Float[Array, "B"],
    *,
    beta: float = 1e-3,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """SPPO with win probabilities 1 and 0: each log-ratio is drawn to its own target.

        L = (P_w - R_w - 1 / (2 beta))^2 + (P_l - R_l + 1 / (2 beta))^2

    Args:
      chosen_logps: `[B]` P_w, log-probability of the chosen response, summed over its tokens, in nats.
      rejected_logps: `[B]` P_l, the rejected response.
      ref_chosen_logps: `[B]` R_w, the same under the frozen reference.
      ref_rejected_logps: `[B]` R_l.
      beta: 1 / eta of the paper; the targets are +-1 / (2 beta).
      where: `[B]` False where there is no pair.

    Returns:
      `[B]` float32 loss, 0 where there is no pair.

    Limits: 1 / (2 beta^2) at policy = reference. The two sides do not interact: no gradient is shared between them.

    Reference: Wu et al. 2024, arXiv:2405.00675, Eq. 4.7 with P = 1 for the winner; TRL's `loss_type="sppo_hard"`.
    """
    p_w, p_l, r_w, r_l = clean(where, chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    target = 0.5 / beta
    return keep(where, jnp.square(p_w - r_w - target) + jnp.square(p_l - r_l + target))
