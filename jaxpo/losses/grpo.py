"""Group relative policy optimisation (arXiv:2402.03300): the clipped term of every token, and how terms are reduced."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.losses.numerics import check_choice, clean, masked_sum

Level = Literal["token", "sequence"]
LossType = Literal["grpo", "bnpo", "dr_grpo", "dapo"]
LARGEST = 20.0
"""Bound on log-ratios, so that no exponential overflows (verl's)."""


def log_ratios(
    logps: Float[Array, "N T"], old_logps: Float[Array, "N T"], mask: Bool[Array, "N T"], *, level: Level = "token"
) -> Float[Array, "N T"]:
    """Log importance weights `log pi - log pi_old`, of tokens or averaged over a response; 0 outside the mask."""
    now, before = clean(mask, logps, old_logps)
    ratio = now - jax.lax.stop_gradient(before)
    if level == "sequence":
        mean = masked_sum(ratio, mask) / jnp.maximum(jnp.sum(mask, axis=-1), 1.0)
        ratio = jnp.where(mask, mean[..., None], 0.0)
    return jnp.clip(ratio, -LARGEST, LARGEST)


def grpo(
    logps: Float[Array, "N T"],
    old_logps: Float[Array, "N T"],
    advantages: Float[Array, "N T"],
    mask: Bool[Array, "N T"],
    *,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    delta: float | None = None,
    importance_sampling_level: Level = "token",
    where: Bool[Array, "N"] | None = None,
) -> Float[Array, "N T"]:
    """The clipped policy gradient term of every token of an answer.

        w = exp(log pi - log pi_old)      of the token, or of the answer's mean
        l = - min(min(w, delta) A, clip(w, 1 - epsilon, 1 + epsilon_high) A)

    Args:
      logps: `[N, T]` log-probs of the answers' tokens, nats.
      old_logps: `[N, T]` under the policy that ratios are taken over; no gradient.
      advantages: `[N, T]`; no gradient.
      mask: `[N, T]` True on the tokens that are trained on; the others may hold anything finite.
      epsilon: how far the ratio may fall.
      epsilon_high: how far it may rise; None = epsilon.
      delta: bound on the ratio where the advantage is negative (two-sided clipping, arXiv 2505.07291); None = none.
      importance_sampling_level: "token", or "sequence" for one ratio per answer (GSPO, arXiv 2507.18071).
      where: `[N]` False where there is no answer.

    Returns:
      `[N, T]` float32; 0 outside the mask.

    Limits: at pi = pi_old it is -A, and its gradient that of -A log pi.

    Reference: Shao et al. 2024, arXiv:2402.03300, eq. 3; TRL's names.
    """
    check_choice("importance_sampling_level", importance_sampling_level, ("token", "sequence"))
    mask = mask if where is None else mask & where[:, None]
    a = jax.lax.stop_gradient(clean(mask, advantages)[0])
    w = jnp.exp(log_ratios(logps, old_logps, mask, level=importance_sampling_level))
    clipped = jnp.clip(w, 1.0 - epsilon, 1.0 + (epsilon if epsilon_high is None else epsilon_high))
    bounded = w if delta is None else jnp.minimum(w, delta)
    return jnp.where(mask, -jnp.minimum(bounded * a, clipped * a), 0.0)


def aggregated(
    terms: Float[Array, "N T"], mask: Bool[Array, "N T"], *, loss_type: LossType, max_completion_length: int
) -> dict[str, Float[Array, "N"]]:
    """An answer's share of the loss, under the name of the count that it is divided by.

        grpo: mean over its tokens, / answers       bnpo, dapo: sum over its tokens, / tokens of the step
        dr_grpo: sum over its tokens / max_completion_length, / answers

    Denominators are those of a whole step, however it is accumulated: there bnpo and dapo are one.
    """
    check_choice("loss_type", loss_type, ("grpo", "bnpo", "dr_grpo", "dapo"))
    total = masked_sum(terms, mask)
    if loss_type == "grpo":
        return {"answers": total / jnp.maximum(jnp.sum(mask, axis=-1), 1.0)}
    if loss_type == "dr_grpo":
        return {"answers": total / max_completion_length}
    return {"tokens": total}


def k3(logps: Float[Array, "N T"], ref_logps: Float[Array, "N T"], mask: Bool[Array, "N T"]) -> Float[Array, "N T"]:
    """`exp(d) - d - 1`, d = log ref - log pi: the non-negative, unbiased estimate of KL(pi || ref) at each token."""
    own, other = clean(mask, logps, ref_logps)
    d = jnp.clip(other - own, -LARGEST, LARGEST)
    return jnp.exp(d) - d - 1.0


def sampler_weights(
    old_logps: Float[Array, "N T"],
    sampling_logps: Float[Array, "N T"],
    mask: Bool[Array, "N T"],
    *,
    mode: Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"],
    cap: float = 3.0,
) -> Float[Array, "N T"]:
    """Weights that correct for a sampler whose distribution is not the trainer's; no gradient.

        w = exp(log pi_old - log pi_sampler)      of the token, or the answer's product
        truncate: min(w, cap)                     mask: w where w <= cap, else 0

    Returns:
      `[N, T]`; 1 where the two agree.
    """
    check_choice("mode", mode, ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask"))
    old, drawn = clean(mask, old_logps, sampling_logps)
    ratio = old - drawn
    if mode.startswith("sequence"):
        ratio = jnp.broadcast_to(masked_sum(ratio, mask)[..., None], ratio.shape)
    w = jax.lax.stop_gradient(jnp.exp(jnp.clip(ratio, -LARGEST, LARGEST)))
    return jnp.minimum(w, cap) if mode.endswith("truncate") else jnp.where(w <= cap, w, 0.0)
