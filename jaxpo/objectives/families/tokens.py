"""Next-token prediction: pretraining on documents, fine-tuning on the supervised tokens of conversations."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from jaxpo.data.packing.batch import Batch
from jaxpo.objectives.base import Counts, Mean, Needs, Objective, Out, Tree
from jaxpo.objectives.encode import Scorer


def next_token(scorer: Scorer, *, roles: tuple[str, ...] = ()) -> Objective:
    """Mean negative log-likelihood of the supervised tokens.

        L = - sum_t m_t log p(y_t | y_<t) / sum_t m_t,   m = masks["completion"], sums over the whole step

    Every supervised token of a step has the same weight, however it is packed, accumulated or sharded.

    Args:
      scorer: model and evaluation settings.
      roles: segment roles the data must have.

    Returns:
      An uncoupled objective; metrics `entropy` and `mean_token_accuracy` over supervised tokens.
    """

    def counts(batch: Batch) -> dict[str, Array]:
        return {"tokens": jnp.sum(batch.masks["completion"].astype(jnp.float32))}

    def encode(params: Tree, frozen: Tree, batch: Batch, rng: Array | None) -> tuple[Tree, dict[str, Any]]:
        hidden, aux = scorer.run(params["model"], batch, rng)
        stats = scorer.token_stats(params["model"], batch, hidden)
        return {"stats": stats, "mask": batch.masks["completion"]}, aux

    def loss(features: Tree, batch: Batch, carry: Tree, counts: Counts) -> Out:
        mask = features["mask"].astype(jnp.float32)
        stats = features["stats"]
        denominator = jnp.maximum(counts["tokens"], 1.0)
        metrics = {
            "entropy": Mean(jnp.sum(mask * stats.entropy), jnp.sum(mask)),
            "mean_token_accuracy": Mean(jnp.sum(mask * stats.correct), jnp.sum(mask)),
        }
        return Out(-jnp.sum(mask * stats.logps) / denominator, metrics, {})

    return Objective("next_token", counts, encode, loss, needs=Needs(roles=roles))
