"""Objectives over lists of K scored responses to one prompt."""

from __future__ import annotations

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from jaxpo.data.batch import Batch
from jaxpo.data.needs import Needs
from jaxpo.losses import label_pairs
from jaxpo.objectives.base import Mean, masked_mean
from jaxpo.objectives.preference import Reward, per_supervised_token
from jaxpo.objectives.preference_features import Scores, Shape, Side, Wanted, lengths, side


@struct.dataclass
class Ranked:
    """The features of a listwise method.

    Attributes:
      candidates: `[N, K]` sides.
      labels: `[N, K]` scores of the responses, larger is better.
      present: `[N, K]` False where the list has no such response.
      columns: the batch's per-example columns.
      extra: what the method's `encode_extra` made.
    """

    candidates: Side
    labels: Float[Array, "N K"]
    present: Bool[Array, "N K"]
    columns: dict[str, Array]
    extra: dict[str, Array] = struct.field(default_factory=dict)


def list_features(scores: Scores, batch: Batch, want: Wanted, extra: dict[str, Array]) -> Ranked:
    """Gather the candidates."""
    candidates = side(scores, batch, "candidate", want)
    present = candidates_present(batch, candidates.length)
    return Ranked(candidates, batch.per_example["scores"], present, dict(batch.per_example), extra)


def candidates_present(batch: Batch, length: Array) -> Bool[Array, "N K"]:
    """True for responses that exist and have at least one supervised token."""
    return batch.present[:, None] & (batch.roles["candidate"] >= 0) & (length > 0)


def list_counts(batch: Batch, needs: Needs) -> dict[str, Float[Array, ""]]:
    """Denominators of the step: lists, and pairs of responses whose labels differ."""
    present = candidates_present(batch, lengths(batch, "candidate"))
    return {
        "lists": jnp.sum(jnp.any(present, axis=1).astype(jnp.float32)),
        "pairs": jnp.sum(label_pairs(batch.per_example["scores"], present)).astype(jnp.float32),
    }


def list_metrics(x: Ranked, reward: Reward) -> dict[str, Mean]:
    """TRL's names on lists: chosen and rejected are the best- and the worst-labelled response of each list.

    `rewards/accuracies` is the share of differently labelled pairs that the reward orders as the labels do.
    """
    r = reward(x.candidates)
    labels = jnp.where(x.present, x.labels, 0.0)
    best = jnp.argmax(jnp.where(x.present, labels, -jnp.inf), axis=1)[:, None]
    worst = jnp.argmin(jnp.where(x.present, labels, jnp.inf), axis=1)[:, None]
    pick = lambda a, index: jnp.take_along_axis(a, index, axis=1)[:, 0]  # noqa: E731
    here = pick(labels, best) > pick(labels, worst)
    pairs = x.present[:, :, None] & x.present[:, None, :] & (labels[:, :, None] > labels[:, None, :])
    return {
        "rewards/chosen": masked_mean(pick(r, best), here),
        "rewards/rejected": masked_mean(pick(r, worst), here),
        "rewards/margins": masked_mean(pick(r, best) - pick(r, worst), here),
        "rewards/accuracies": masked_mean((r[:, :, None] > r[:, None, :]).astype(jnp.float32), pairs),
        "logps/chosen": masked_mean(pick(x.candidates.logps, best), here),
        "logps/rejected": masked_mean(pick(x.candidates.logps, worst), here),
        "entropy": per_supervised_token("entropy", x.present, x.candidates),
        "mean_token_accuracy": per_supervised_token("correct", x.present, x.candidates),
    }


LIST_SHAPE = Shape(list_features, list_counts, list_metrics)
