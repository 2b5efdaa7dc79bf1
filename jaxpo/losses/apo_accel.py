"""Accelerated preference optimisation: extrapolation between rounds of any pairwise method (arXiv:2410.06293)."""

from __future__ import annotations

import jax
from jaxtyping import Array, Float

from jaxpo.losses.numerics import clean


def extrapolated_logps(
    logps: Float[Array, "... V"], previous: Float[Array, "... V"], *, alpha: float = 0.3
) -> Float[Array, "... V"]:
    """The policy that overshoots along the last improvement, of whole distributions.

        log pi_{t+1} = (1 + alpha) log hat_{t+1} - alpha log hat_t - log Z

    Of networks the same is done to parameters, `theta = (1 + alpha) hat_theta_{t+1} - alpha hat_theta_t`, which is
    `Merge(weights=(1 + alpha, -alpha))`; for a softmax of its parameters both are one.

    Args:
      logps: `[..., V]` log-probs of the inner solution of this round, not extrapolated.
      previous: `[..., V]` those of the round before; before the first round both are the reference.
      alpha: 0.3 from memory of the paper; 0.1 to 0.5 is the range to search.

    Returns:
      `[..., V]` float32 log-probs, normalised over the last axis.

    Limits: alpha = 0, or no improvement (both alike), changes nothing. With exact inner steps of DPO on one reward r
    the t-th policy is proportional to pi_ref exp(c_t r / beta), where c_t = v_1 + .. + v_t + alpha v_t, v_1 = 1 and
    v_{k+1} = 1 + alpha v_k; c_t / t goes to 1 / (1 - alpha).

    Reference: He et al. 2024, arXiv:2410.06293, the extrapolation step.
    """
    new, old = clean(None, logps, previous)
    return jax.nn.log_softmax(new + alpha * (new - old), axis=-1)
