"""Self-play preference optimisation with win probabilities (arXiv:2405.00675)."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import clean, keep


def sppo_soft(
    logps: Float[Array, "B"],
    ref_logps: Float[Array, "B"],
    win_probability: Float[Array, "B"],
    *,
    beta: float = 1e-3,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """SPPO on single responses: regress the log-ratio on the response's scaled win probability.

        rho = P - R,    L = (rho - eta (p_win - 1/2))^2,    eta = 1 / beta

    Args:
      logps: `[B]` P, log-probability of the response, summed over its tokens, in nats.
      ref_logps: `[B]` R under the reference, the policy of the previous round.
      win_probability: `[B]` p_win in [0, 1], probability that the response beats one of the reference's. No gradient.
      beta: 1 / eta.
      where: `[B]` False where there is no response.

    Returns:
      `[B]` float32 loss per response, 0 where there is none. The two responses of a pair add up.

    Limits: p_win = 1 and 0 for the two sides of a pair is SPPO-hard; 1/2 pulls the policy back to the reference. The
    minimum is at rho = eta (p_win - 1/2), whatever the other responses do: the loss is absolute, not relative.

    Reference: Wu et al. 2024, arXiv:2405.00675, Eq. 4.7 and Algorithm 1. The authors' code halves the sum of a pair.
    """
    p, r, win = clean(where, logps, ref_logps, win_probability)
    return keep(where, jnp.square(p - r - (win - 0.5) / beta))
