"""Objectives over single answers that the model wrote: an advantage per token, a reward per answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from jaxpo.data.packing.batch import Batch, rows_of
from jaxpo.data.rows.needs import Needs
from jaxpo.losses.kl import ESTIMATORS
from jaxpo.objectives.base import Max, Metric, Min, OfSums, masked_mean
from jaxpo.objectives.families.features import Scores, Shape, Side, Wanted, lengths, side

if TYPE_CHECKING:
    from jaxpo.objectives.methods.rollouts import Penalty

OLD_LOGPS, SAMPLING_LOGPS, ADVANTAGES = "old_logps", "sampling_logps", "advantages"
REF_LOGPS, OLD_VALUES, RETURNS = "ref_logps", "old_values", "returns"
PER_TOKEN = (ADVANTAGES, SAMPLING_LOGPS)
"""What every answer carries per token; the other columns are those that a method names in its needs."""


@struct.dataclass
class Rollouts:
    """The features of a method on answers.

    Attributes:
      answer: the response; `answer.tokens` are its rows.
      old_logps: `[N, T]` that ratios are taken over: recorded, or the policy's own without gradient where every answer
        serves one step.
      entropy: `[N, T]` of the policy at every token; no gradient.
      present: `[N]` False where there is no answer.
      columns: the batch's per-example columns.
    """

    answer: Side
    old_logps: Float[Array, "N T"]
    entropy: Float[Array, "N T"]
    present: Bool[Array, "N"]
    columns: dict[str, Array]
    extra: dict[str, Array] = struct.field(default_factory=dict)

    @property
    def mask(self) -> Bool[Array, "N T"]:
        """The tokens that are trained on."""
        return self.answer.tokens.mask & self.present[:, None]

    @property
    def logps(self) -> Float[Array, "N T"]:
        """Of the policy."""
        return self.answer.tokens.logps

    @property
    def ref_logps(self) -> Float[Array, "N T"]:
        """Of the reference; zeros without one."""
        return self.answer.tokens.ref_logps

    @property
    def advantages(self) -> Float[Array, "N T"]:
        """Of every token."""
        return self.answer.tokens.column(ADVANTAGES)

    def column(self, name: str) -> Float[Array, "N T"]:
        """A per-token column that the method needs."""
        return self.answer.tokens.column(name)

    def of_answer(self, x: Float[Array, "N T"]) -> Float[Array, "N"]:
        """What all trained tokens of an answer have alike; 0 without any."""
        on = self.mask.astype(jnp.float32)
        return jnp.sum(jnp.where(self.mask, x, 0.0), axis=-1) / jnp.maximum(jnp.sum(on, axis=-1), 1.0)

    @property
    def sampling_logps(self) -> Float[Array, "N T"]:
        """Under the distribution that the token was drawn from."""
        return self.answer.tokens.column(SAMPLING_LOGPS)


def rollout_features(scores: Scores, batch: Batch, want: Wanted, extra: dict[str, Array]) -> Rollouts:
    """Gather the answers."""
    answer, index = side(scores, batch, "completion", want), batch.roles["completion"]
    recorded = batch.per_token.get(OLD_LOGPS)
    own = jax.lax.stop_gradient(answer.tokens.logps)
    return Rollouts(
        answer,
        own if recorded is None else rows_of(recorded, index, batch),
        rows_of(scores.stats.entropy, index, batch),
        batch.present & (index >= 0),
        dict(batch.per_example),
        extra,
    )


def rollout_counts(batch: Batch, needs: Needs) -> dict[str, Float[Array, ""]]:
    """Denominators of the step: answers, those without a trained token among them, and trained tokens."""
    present = batch.present & (batch.roles["completion"] >= 0)
    tokens = jnp.where(present, lengths(batch, "completion"), 0.0)
    return {"answers": jnp.sum(present.astype(jnp.float32)), "tokens": jnp.sum(tokens)}


def rollout_metrics(x: Rollouts, reward: Any) -> dict[str, Metric]:
    """TRL's metrics of its GRPO trainer that are known for every method: rewards, lengths, sampler and trainer."""
    on = x.mask
    found: dict[str, Any] = {"entropy": masked_mean(x.entropy, on)}
    return found | sampler_metrics(x, on) | answer_metrics(x.columns, x.present)


def sampler_metrics(x: Rollouts, on: Bool[Array, "N T"]) -> dict[str, Metric]:
    """How far the trainer's log-probs are from those that the answers were drawn with."""
    ratio = jnp.where(on, x.old_logps - x.sampling_logps, 0.0)
    w = jnp.exp(jnp.clip(ratio, -20.0, 20.0))
    prefix = "sampling/importance_sampling_ratio"
    return {
        "sampling/sampling_logp_difference/mean": masked_mean(jnp.abs(ratio), on),
        "sampling/sampling_logp_difference/max": Max(jnp.max(jnp.abs(ratio))),
        f"{prefix}/min": Min(jnp.min(jnp.where(on, w, jnp.inf))),
        f"{prefix}/mean": masked_mean(w, on),
        f"{prefix}/max": Max(jnp.max(jnp.where(on, w, -jnp.inf))),
    }


def answer_metrics(columns: Mapping[str, Array], present: Bool[Array, "N"]) -> dict[str, Metric]:
    """Rewards and lengths; an answer about which no reward says anything counts in the lengths alone."""
    length = columns.get("answer_length")
    if length is None:
        return {}
    rewarded = present & (columns["rewarded"] > 0)
    ended = present & (columns["finished"] > 0)
    found: dict[str, Metric] = {
        "reward": masked_mean(columns["reward"], rewarded),
        "reward_std": masked_mean(columns["group_std"], rewarded),
        "frac_reward_zero_std": masked_mean((columns["group_std"] <= 1e-8).astype(jnp.float32), rewarded),
        "completions/clipped_ratio": masked_mean((columns["finished"] <= 0).astype(jnp.float32), present),
        "rewards/failed": masked_mean(columns["failed"], present),
        "rewards/unrewarded": masked_mean((columns["rewarded"] <= 0).astype(jnp.float32), present),
    }
    if "correct" in columns:
        found["correct"] = masked_mean(jnp.maximum(columns["correct"], 0.0), present & (columns["correct"] >= 0))
    for name, where in (("length", present), ("terminated_length", ended)):
        found[f"completions/mean_{name}"] = masked_mean(length, where)
        found[f"completions/min_{name}"] = Min(jnp.min(jnp.where(where, length, jnp.inf)))
        found[f"completions/max_{name}"] = Max(jnp.max(jnp.where(where, length, -jnp.inf)))
    for name, values in columns.items():
        if name.startswith("reward:"):
            given = present & jnp.isfinite(values)
            known = jnp.where(given, values, 0.0)
            own = name.removeprefix("reward:")
            sums = jnp.stack([jnp.sum(known), jnp.sum(known**2), jnp.sum(given.astype(jnp.float32))])
            found[f"rewards/{own}/mean"] = masked_mean(known, given)
            found[f"rewards/{own}/std"] = OfSums(sums, _deviation)  # type: ignore[assignment]
    return found


def of_answers(x: Float[Array, "N T"], mask: Bool[Array, "N T"]) -> Float[Array, "N"]:
    """Summed over the trained tokens of each answer."""
    return jnp.sum(jnp.where(mask, x, 0.0), axis=-1)


def penalty_metrics(x: Rollouts, penalty: Penalty | None) -> dict[str, Metric]:
    """TRL's metrics of a KL that is taken from rewards, by answers: it, its weight, and the rewards before and after.

    Nothing without a penalty.
    """
    if penalty is None or "kl_coef" not in x.columns:
        return {}
    kl = of_answers(ESTIMATORS[penalty.estimator](x.old_logps, x.ref_logps, where=x.mask), x.mask)
    coef, score = x.columns["kl_coef"], x.columns["reward"]
    rewarded = x.present & (x.columns["rewarded"] > 0)
    return {
        "objective/kl": masked_mean(kl, x.present),
        "objective/kl_coef": masked_mean(coef, x.present),
        "objective/non_score_reward": masked_mean(-coef * kl, x.present),
        "objective/scores": masked_mean(score, rewarded),
        "objective/rlhf_reward": masked_mean(score - coef * kl, rewarded),
    }


def _deviation(sums: Float[Array, "3"]) -> Array:
    """Standard deviation with n - 1, from sum, sum of squares and number; 0 of less than two."""
    total, squares, n = sums[0], sums[1], sums[2]
    spread = (squares - total**2 / jnp.maximum(n, 1.0)) / jnp.maximum(n - 1.0, 1.0)
    return jnp.sqrt(jnp.maximum(spread, 0.0))


ROLLOUT_SHAPE = Shape(rollout_features, rollout_counts, rollout_metrics)
