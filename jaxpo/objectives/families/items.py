"""Objectives over graded items that stand one after another inside one response."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpo.data.packing.batch import Batch, rows_of
from jaxpo.data.rows.needs import Needs
from jaxpo.losses import label_pairs, labelled_sums
from jaxpo.objectives.families.features import Scores, Shape, Side, Wanted
from jaxpo.objectives.families.lists import Ranked, list_metrics


def item_features(scores: Scores, batch: Batch, want: Wanted, extra: dict[str, Array]) -> Ranked:
    """The items as the candidates of a list: sums over each item's tokens, given all that stands before it."""
    labels = rows_of(batch.per_token["item"], batch.roles["items"], batch)

    def total(x: Float[Array, "R S"]) -> Float[Array, "N K"]:
        return _sums(rows_of(x, batch.roles["items"], batch), labels, batch)

    length = item_lengths(batch)
    items = Side(
        logps=total(scores.stats.logps),
        ref_logps=total(scores.ref_logps),
        length=length,
        entropy=total(scores.stats.entropy),
        correct=total(scores.stats.correct),
    )
    relevance = batch.per_example["relevance"].astype(jnp.float32)
    return Ranked(items, relevance, items_present(batch, length), dict(batch.per_example), extra)


def item_lengths(batch: Batch) -> Float[Array, "N K"]:
    """Tokens of each item; 0 where there is none or it was cut off."""
    labels = rows_of(batch.per_token["item"], batch.roles["items"], batch)
    return _sums(jnp.ones(labels.shape, jnp.float32), labels, batch)


def items_present(batch: Batch, length: Float[Array, "N K"]) -> Bool[Array, "N K"]:
    """True for items that exist (their relevance is not -1) and have a token."""
    return batch.present[:, None] & (batch.per_example["relevance"] >= 0) & (length > 0)


def item_counts(batch: Batch, needs: Needs) -> dict[str, Float[Array, ""]]:
    """Denominators of the step: lists, and pairs of items whose grades differ."""
    present = items_present(batch, item_lengths(batch))
    relevance = batch.per_example["relevance"].astype(jnp.float32)
    return {
        "lists": jnp.sum(jnp.any(present, axis=1).astype(jnp.float32)),
        "pairs": jnp.sum(label_pairs(relevance, present)).astype(jnp.float32),
    }


def _sums(x: Float[Array, "N T"], labels: Array, batch: Batch) -> Float[Array, "N K"]:
    return labelled_sums(x, labels, count=batch.per_example["relevance"].shape[1])


ITEM_SHAPE = Shape(item_features, item_counts, list_metrics)
