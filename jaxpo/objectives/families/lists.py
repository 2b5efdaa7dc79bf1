"""Objectives over lists of K scored responses to one prompt."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from jaxpo.data.packing.batch import Batch
from jaxpo.data.rows.needs import Needs
from jaxpo.losses import label_pairs
from jaxpo.objectives.base import Mean, masked_mean
from jaxpo.objectives.families.features import Scores, Shape, Side, Wanted, lengths, side
from jaxpo.objectives.families.pairs import Pair, Reward, per_supervised_token


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


def ends(x: Ranked) -> Pair:
    """The best- and the worst-labelled response of each list as a pair; there is none where no two labels differ."""
    labels = jnp.where(x.present, x.labels, 0.0)
    best = jnp.argmax(jnp.where(x.present, labels, -jnp.inf), axis=1)
    worst = jnp.argmin(jnp.where(x.present, labels, jnp.inf), axis=1)
    row = jnp.arange(labels.shape[0])
    chosen, rejected = (jax.tree.map(lambda a, k=k: a[row, k], x.candidates) for k in (best, worst))
    return Pair(chosen, rejected, labels[row, best] > labels[row, worst], {})


def list_metrics(x: Ranked, reward: Reward) -> dict[str, Mean]:
    """TRL's names on lists: chosen and rejected are the best- and the worst-labelled response of each list.

    `rewards/accuracies` is the share of differently labelled pairs that the reward orders as the labels do.
    """
    r, pair = reward(x.candidates), ends(x)
    r_w, r_l = reward(pair.chosen), reward(pair.rejected)
    right, pairs = judgements(x, r)
    return {
        "rewards/chosen": masked_mean(r_w, pair.present),
        "rewards/rejected": masked_mean(r_l, pair.present),
        "rewards/margins": masked_mean(r_w - r_l, pair.present),
        "rewards/accuracies": masked_mean(right.astype(jnp.float32), pairs),
        "logps/chosen": masked_mean(pair.chosen.logps, pair.present),
        "logps/rejected": masked_mean(pair.rejected.logps, pair.present),
        "entropy": per_supervised_token("entropy", x.present, x.candidates),
        "mean_token_accuracy": per_supervised_token("correct", x.present, x.candidates),
    }


def judgements(x: Ranked, r: Float[Array, "N K"]) -> tuple[Array, Array]:
    """Where the reward puts the first of two responses above the second, and where the labels do, `[N, K, K]`."""
    pairs = x.present[:, :, None] & x.present[:, None, :] & (x.labels[:, :, None] > x.labels[:, None, :])
    return r[:, :, None] > r[:, None, :], pairs


LIST_SHAPE = Shape(list_features, list_counts, list_metrics)
