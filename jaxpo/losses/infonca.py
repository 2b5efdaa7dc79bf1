"""Noise contrastive alignment from explicit rewards (arXiv:2402.05369)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.listwise import masked_log_softmax, masked_softmax
from jaxpo.losses.numerics import clean, softplus


def infonca(
    logps: Float[Array, "B K"],
    ref_logps: Float[Array, "B K"],
    rewards: Float[Array, "B K"],
    where: Bool[Array, "B K"],
    *,
    beta: float = 0.01,
    alpha: float = 1e-4,
) -> Float[Array, "B"]:
    """InfoNCA: cross-entropy between the rewards' and the log-ratios' distributions over a list of responses.

        p = softmax_k(r_k / alpha),    L = -sum_k p_k log softmax_k(beta (P_k - R_k))

    Args:
      logps: `[B, K]` P, log-probability of each response, summed over its tokens, in nats.
      ref_logps: `[B, K]` R under the frozen reference.
      rewards: `[B, K]` r, larger is better. No gradient.
      where: `[B, K]` False where the list has no such response.
      beta: scale of the implicit reward.
      alpha: temperature of the rewards, in their units; small: the best response alone is the target.

    Returns:
      `[B]` float32; 0 for a list with fewer than two responses.

    Limits: alpha -> 0 and K = 2 is DPO. A common shift of a list's log-ratios changes nothing, so likelihoods of good
    responses may fall (`nca` holds them). The minimum over the log-ratios is the entropy of p.

    Reference: Chen et al. 2024, arXiv:2402.05369, the InfoNCA loss (sections 3 and 4).
    """
    p, r, reward = clean(where, logps, ref_logps, rewards)
    target = _target(reward, where, alpha)
    return -jnp.sum(target * masked_log_softmax(beta * (p - r), where), axis=-1)


def nca(
    logps: Float[Array, "B K"],
    ref_logps: Float[Array, "B K"],
    rewards: Float[Array, "B K"],
    where: Bool[Array, "B K"],
    *,
    beta: float = 0.01,
    alpha: float = 1e-4,
) -> Float[Array, "B"]:
    """NCA: each response is told from noise by itself, so that the likelihood of good ones does not fall.

        p = softmax_k(r_k / alpha),    s_k = beta (P_k - R_k)
        L = sum_k p_k softplus(-s_k) + (1/K) sum_k softplus(s_k)

    Args as `infonca`; K counts the responses that a list has.

    Returns:
      `[B]` float32, 0 for an empty list.

    Limits: alpha -> 0 and K = 2 is NCA on pairs. dL/ds_k = (p_k + 1/K) sigmoid(s_k) - p_k: zero at
    sigmoid(s_k) = p_k / (p_k + 1/K), that is s_k = log(K p_k), whatever the other responses do.

    Reference: Chen et al. 2024, arXiv:2402.05369, the NCA loss (section 4).
    """
    p, r, reward = clean(where, logps, ref_logps, rewards)
    s = beta * (p - r)
    noise = jnp.where(where, 1.0, 0.0) / jnp.maximum(jnp.sum(where, axis=-1, keepdims=True), 1)
    return jnp.sum(_target(reward, where, alpha) * softplus(-s) + noise * softplus(s), axis=-1)


def _target(rewards: Array, where: Array, alpha: float) -> Array:
    return jax.lax.stop_gradient(masked_softmax(rewards / alpha, where))
