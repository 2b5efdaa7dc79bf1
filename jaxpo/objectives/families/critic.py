"""A critic beside the policy: what it says before every token, and how well."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxpo.data.packing.batch import Batch
from jaxpo.losses.importance import log_ratios
from jaxpo.models.heads import linear_head
from jaxpo.objectives.base import Metric, OfSums, masked_mean
from jaxpo.objectives.encode import Scorer, to_targets
from jaxpo.objectives.families.rollouts import OLD_VALUES, RETURNS, Rollouts, of_answers

Tree = Any
MODEL, CRITIC = "model", "critic"


def critic_values(
    scorer: Scorer, params: Tree, batch: Batch, hidden: Float[Array, "R S D"], rng: Array | None = None
) -> Float[Array, "R S"]:
    """V before each token, in target coordinates: read at the token before it; 0 where there is none.

    Args:
      params: with `"critic"`: a head, or a network with one.
      hidden: the policy's final states, which a critic without a network of its own reads.
      rng: the step's key; None = no dropout.
    """
    return critic_heads(scorer, params, batch, hidden, rng)[0]


def critic_heads(
    scorer: Scorer, params: Tree, batch: Batch, hidden: Float[Array, "R S D"], rng: Array | None = None
) -> list[Float[Array, "R S"]]:
    """As `critic_values`, of every stream of rewards that the critic has a head for."""
    critic = params[CRITIC]
    states = scorer.run(critic[MODEL], batch, rng)[0] if MODEL in critic else hidden
    every = linear_head(critic["value"], states)
    return [to_targets(every[..., i], batch) for i in range(every.shape[-1])]


def critic_metrics(
    x: Rollouts, advantages: Float[Array, "N T"], policy: Float[Array, "N T"], values: Float[Array, "N T"], clips: Any
) -> dict[str, Metric]:
    """TRL's metrics of its PPO trainer, and verl's of its critic.

    `val/ratio_var` is over the tokens of a step, where TRL's is over the means of its minibatches.

    Args:
      advantages: that the policy is trained with.
      policy, values: terms of the loss; of all critics together, without their weights.
      clips: has `epsilon`, `epsilon_high` and `cliprange_value`.
    """
    on = x.mask
    logs = log_ratios(x.logps, x.old_logps, on)
    ratio = jnp.exp(logs)
    v, before, aim = x.extra["values"], x.column(OLD_VALUES), x.column(RETURNS)
    high = clips.epsilon if clips.epsilon_high is None else clips.epsilon_high
    low = (advantages < 0) & (ratio < 1.0 - clips.epsilon)
    clipped = jnp.where(advantages > 0, ratio > 1.0 + high, low)
    ended = x.present & (x.columns["finished"] > 0) if "finished" in x.columns else x.present
    found: dict[str, Any] = {
        "objective/entropy": masked_mean(of_answers(-x.old_logps, on), x.present),
        "policy/approxkl_avg": masked_mean(0.5 * logs**2, on),
        "policy/clipfrac_avg": masked_mean(clipped.astype(jnp.float32), on),
        "policy/entropy_avg": masked_mean(x.entropy, on),
        "loss/policy_avg": masked_mean(policy, on),
        "loss/value_avg": masked_mean(values, on),
        "val/ratio": masked_mean(ratio, on),
        "val/ratio_var": OfSums(_moments(ratio, on), _variance),
        "val/num_eos_tokens": OfSums(jnp.sum(ended.astype(jnp.float32)), _itself),
        "critic/values/mean": masked_mean(v, on),
        "critic/returns/mean": masked_mean(aim, on),
        "critic/vf_explained_var": OfSums((_moments(aim - v, on), _moments(aim, on)), _explained),
    }
    if (c := clips.cliprange_value) > 0:
        near = jnp.clip(v, before - c, before + c)
        worse = (near - aim) ** 2 > (v - aim) ** 2
        found["val/clipfrac_avg"] = masked_mean(worse.astype(jnp.float32), on)
    return found


def _moments(x: Float[Array, "N T"], on: Array) -> Float[Array, "3"]:
    """Sum, sum of squares and number."""
    known = jnp.where(on, x, 0.0)
    return jnp.stack([jnp.sum(known), jnp.sum(known**2), jnp.sum(on.astype(jnp.float32))])


def _variance(sums: Float[Array, "3"]) -> Array:
    """With n; 0 of nothing."""
    n = jnp.maximum(sums[2], 1.0)
    return jnp.maximum(sums[1] / n - (sums[0] / n) ** 2, 0.0)


def _explained(sums: tuple[Array, Array]) -> Array:
    """`1 - var(R - V) / var(R)`; 0 where the returns do not differ."""
    left, whole = _variance(sums[0]), _variance(sums[1])
    return jnp.where(whole > 0, 1.0 - left / jnp.maximum(whole, 1e-30), 0.0)


def _itself(total: Array) -> Array:
    return total
