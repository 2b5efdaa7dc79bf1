"""General preference optimisation (arXiv:2410.02197)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import clean, keep


def gpo(
    logps: Float[Array, "B"],
    ref_logps: Float[Array, "B"],
    mean_scores: Float[Array, "B"],
    *,
    beta: float = 1e-3,
    where: Bool[Array, "B"] | None = None,
) -> Float[Array, "B"]:
    """GPO: regress the log-ratio to the last iterate on a response's mean score against its own responses.

        L = (P - R - sbar / b)^2

    Args:
      logps: `[B]` P, log-probability of the response, summed over its tokens, in nats.
      ref_logps: `[B]` R under pi_t, the policy that wrote it. No gradient.
      mean_scores: `[B]` sbar of `gpm_mean_scores`, the temperature divided out. No gradient.
      beta: b.
      where: `[B]` False where there is no response.

    Returns:
      `[B]` float32 loss per response, 0 where there is none.

    Limits: 0 where pi is pi_t exp(sbar / b) with log Z = 0, exact near equilibrium since the sbar of pi_t average 0 by
    skew symmetry; SPPO-soft with a win rate of 1/2 + sbar. At pi = pi_t a step raises P where sbar > 0.

    Reference: Zhang et al. 2024, arXiv:2410.02197, Sec. 5.
    """
    p, r, s = clean(where, logps, ref_logps, mean_scores)
    r, s = jax.lax.stop_gradient((r, s))
    return keep(where, jnp.square(p - r - s / beta))
