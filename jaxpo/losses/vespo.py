"""VESPO (arXiv:2602.10693): the answer's importance weight under a gamma-shaped curve instead of clips."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.importance import LARGEST, constant, log_ratios, trained
from jaxpo.losses.numerics import clean, masked_sum

SMALLEST = math.log(1e-8)
"""Lower bound on log-weights (TRL's)."""


def vespo_weights(
    logps: Float[Array, "N T"],
    old_logps: Float[Array, "N T"],
    advantages: Float[Array, "N T"],
    mask: Bool[Array, "N T"],
    *,
    sampler_weights: Float[Array, "N T"] | None = None,
    vespo_k_pos: float = 2.0,
    vespo_lambda_pos: float = 3.0,
    vespo_k_neg: float = 3.0,
    vespo_lambda_neg: float = 2.0,
) -> Float[Array, "N T"]:
    """Weights that are 1 at pi = pi_old and fall off on either side; no gradient.

        phi(w) = e^lambda w^k e^(-lambda w),    w = exp(sum_t log pi - log pi_old) prod_t sampler weight

    Args:
      logps, old_logps, advantages, mask: as of `vespo`.
      sampler_weights: `[N, T]` as of `off_policy_weights` at level "token"; None = 1.
      vespo_k_pos, vespo_lambda_pos: k and lambda where A >= 0.
      vespo_k_neg, vespo_lambda_neg: where A < 0.

    Returns:
      `[N, T]` float32, 0 outside the mask.

    Limits: the largest is at w = k / lambda. Log-ratios of tokens are bounded by +-20, log w by [log 1e-8, 20].

    Reference: arXiv:2602.10693, as in TRL's GRPO trainer.
    """
    total = masked_sum(log_ratios(logps, old_logps, mask), mask)
    if sampler_weights is not None:
        given = jnp.where(mask, sampler_weights, 1.0).astype(jnp.float32)
        total = total + masked_sum(jnp.clip(jnp.log(given), SMALLEST, LARGEST), mask)
    log_w = jnp.clip(total, SMALLEST, LARGEST)[..., None]
    up = constant(mask, advantages) >= 0
    k = jnp.where(up, vespo_k_pos, vespo_k_neg)
    lam = jnp.maximum(jnp.where(up, vespo_lambda_pos, vespo_lambda_neg), 1e-4)
    return constant(mask, jnp.exp(lam + k * log_w - lam * jnp.exp(log_w)))


def vespo(
    logps: Float[Array, "N T"],
    old_logps: Float[Array, "N T"],
    advantages: Float[Array, "N T"],
    mask: Bool[Array, "N T"],
    *,
    sampler_weights: Float[Array, "N T"] | None = None,
    vespo_k_pos: float = 2.0,
    vespo_lambda_pos: float = 3.0,
    vespo_k_neg: float = 3.0,
    vespo_lambda_neg: float = 2.0,
    where: Bool[Array, "N"] | None = None,
) -> Float[Array, "N T"]:
    """A policy gradient whose answers are weighed by a smooth function of their importance.

        l = -sg(phi(w)) A log pi,    phi(w) = e^lambda w^k e^(-lambda w)

    Args:
      logps: `[N, T]` log-probs of the answers' tokens, nats.
      old_logps: `[N, T]` under the policy that wrote them; no gradient.
      advantages: `[N, T]`; no gradient.
      mask: `[N, T]` True on the tokens that are trained on; the others may hold anything, NaN included.
      sampler_weights: `[N, T]` of tokens, which enter w and are not multiplied to the loss again; None = 1.
      vespo_k_pos, vespo_lambda_pos: k and lambda where A >= 0.
      vespo_k_neg, vespo_lambda_neg: where A < 0.
      where: `[N]` False where there is no answer.

    Returns:
      `[N, T]` float32, 0 outside the mask; sum it and divide by the tokens of the step.

    Limits: its gradient at pi = pi_old is -A. Its value says nothing.

    Reference: arXiv:2602.10693, as in TRL's GRPO trainer.
    """
    on = trained(mask, where)
    shape = {
        "vespo_k_pos": vespo_k_pos,
        "vespo_lambda_pos": vespo_lambda_pos,
        "vespo_k_neg": vespo_k_neg,
        "vespo_lambda_neg": vespo_lambda_neg,
    }
    phi = vespo_weights(logps, old_logps, advantages, on, sampler_weights=sampler_weights, **shape)
    return -phi * constant(on, advantages) * clean(on, logps)[0]
