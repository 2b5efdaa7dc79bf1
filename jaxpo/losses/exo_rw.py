"""Efficient exact optimisation from rewards (arXiv:2402.00856)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.listwise import masked_log_softmax
from jaxpo.losses.numerics import clean


def exo_rw(
    logps: Float[Array, "B K"],
    ref_logps: Float[Array, "B K"],
    rewards: Float[Array, "B K"],
    where: Bool[Array, "B K"],
    *,
    beta: float = 0.1,
    beta_r: float = 0.1,
) -> Float[Array, "B"]:
    """EXO-rw: reverse KL between the log-ratios' and the rewards' distributions over a list of responses.

        q = softmax_k(beta (P_k - R_k)),    p = softmax_k(r_k / beta_r),    L = KL(q || p)

    Args:
      logps: `[B, K]` P, log-probability of each response, summed over its tokens, in nats.
      ref_logps: `[B, K]` R under the frozen reference.
      rewards: `[B, K]` r, larger is better. No gradient.
      where: `[B, K]` False where the list has no such response.
      beta: scale of the implicit reward (the paper's beta_pi).
      beta_r: temperature of the rewards, in their units.

    Returns:
      `[B]` float32 >= 0; 0 for a list with fewer than two responses.

    Limits: 0 if and only if the log-ratios are r / (beta beta_r) up to a constant per list. Two responses with rewards
    beta_r log(1 - e) and beta_r log e are EXO on pairs with label smoothing e. InfoNCA is the forward direction.

    Reference: Ji et al. 2024, arXiv:2402.00856, the EXO loss on K responses with rewards (section 3).
    """
    p, r, reward = clean(where, logps, ref_logps, rewards)
    log_q = masked_log_softmax(beta * (p - r), where)
    log_p = jax.lax.stop_gradient(masked_log_softmax(reward / beta_r, where))
    return jnp.sum(jnp.where(where, jnp.exp(log_q), 0.0) * (log_q - log_p), axis=-1)
