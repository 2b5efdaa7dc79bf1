"""What corrects for answers whose writer was not the policy that old log-probs are of: weights, bands and masks."""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.importance import LARGEST, constant, lengths
from jaxpo.losses.numerics import check_choice, masked_sum, per_token


def off_policy_weights(
    old_logps: Float[Array, "N T"],
    sampling_logps: Float[Array, "N T"],
    mask: Bool[Array, "N T"],
    *,
    level: Literal["token", "sequence"] = "sequence",
    mode: Literal["truncate", "mask"] = "mask",
    low: float | None = None,
    high: float | None = 3.0,
) -> Float[Array, "N T"]:
    """Importance weights of the trainer's distribution over the sampler's; no gradient.

        w = exp(log pi_old - log pi_sampler)      of the token, or the product over the answer
        truncate: clip(w, low, high)              mask: w where low <= w <= high, else 0

    Args:
      old_logps: `[N, T]` of the policy as the trainer computes it, nats.
      sampling_logps: `[N, T]` of the distribution that the tokens were drawn from.
      mask: `[N, T]` True on the tokens that are trained on; the others may hold anything, NaN included.
      level: "token", or "sequence" for one weight per answer, the same on each of its tokens.
      mode: what becomes of weights outside the bounds.
      low: None = none.
      high: None = none.

    Returns:
      `[N, T]` float32, 0 outside the mask; multiply the terms of the loss with it. Log-ratios are bounded by +-20.

    Limits: 1 where trainer and sampler agree. IcePop is level "token", mode "mask" with a band, as [0.5, 5].

    Reference: Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training" (truncated);
    Liu et al. 2025, "When speed kills stability" (masked); TRL's `vllm_importance_sampling_*`.
    """
    check_choice("level", level, ("token", "sequence"))
    check_choice("mode", mode, ("truncate", "mask"))
    ratio = constant(mask, old_logps) - constant(mask, sampling_logps)
    if level == "sequence":
        ratio = jnp.broadcast_to(masked_sum(ratio, mask)[..., None], ratio.shape)
    w = jnp.exp(jnp.clip(ratio, -LARGEST, LARGEST))
    least, most = 0.0 if low is None else low, jnp.inf if high is None else high
    bounded = jnp.clip(w, least, most) if mode == "truncate" else jnp.where((least <= w) & (w <= most), w, 0.0)
    return constant(mask, bounded)


def geometric_mask(
    old_logps: Float[Array, "N T"],
    sampling_logps: Float[Array, "N T"],
    mask: Bool[Array, "N T"],
    *,
    low: float = 0.99,
    high: float = 1.01,
) -> Float[Array, "N T"]:
    """1 on the tokens of answers whose mean log-ratio is small, 0 on all others; no gradient.

        keep where log low <= mean_t (log pi_old - log pi_sampler) <= log high

    Args:
      old_logps, sampling_logps, mask: as of `off_policy_weights`.
      low, high: bounds of the geometric mean of the tokens' ratios, which does not grow with the length.

    Returns:
      `[N, T]` float32, 0 outside the mask; it takes answers out and weighs none.

    Reference: Liu et al. 2025, "When speed kills stability"; bounds as in SkyRL and prime-rl.
    """
    gap = constant(mask, old_logps) - constant(mask, sampling_logps)
    mean = per_token(masked_sum(gap, mask), lengths(mask))
    kept = (mean >= jnp.log(low)) & (mean <= jnp.log(high))
    return constant(mask, jnp.where(kept[..., None], 1.0, 0.0))


def off_policy_mask(
    logps: Float[Array, "N T"],
    sampling_logps: Float[Array, "N T"],
    advantages: Float[Array, "N T"],
    mask: Bool[Array, "N T"],
    *,
    threshold: float,
) -> Float[Array, "N T"]:
    """0 on the tokens of negative advantage in answers that the policy has left, 1 on all others; no gradient.

        keep where A >= 0, or mean_t (log pi_sampler - log pi) <= threshold

    Args:
      logps: `[N, T]` of the policy now, nats.
      sampling_logps: `[N, T]` of the distribution that the tokens were drawn from.
      advantages: `[N, T]`.
      mask: `[N, T]` True on the tokens that are trained on; the others may hold anything, NaN included.
      threshold: the most that an answer may have lost per token.

    Returns:
      `[N, T]` float32, 0 outside the mask.

    Reference: DeepSeek-AI 2025, arXiv:2512.02556, eq. 9; TRL's `off_policy_mask_threshold`.
    """
    lost = constant(mask, sampling_logps) - constant(mask, logps)
    mean = per_token(masked_sum(lost, mask), lengths(mask))[..., None]
    kept = (constant(mask, advantages) >= 0) | (mean <= threshold)
    return constant(mask, jnp.where(kept, 1.0, 0.0))
