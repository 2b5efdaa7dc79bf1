"""Reward modelling: a scalar at the last token of each response."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from jaxpo.data.packing.batch import Batch, last_of, take
from jaxpo.data.rows.needs import Needs
from jaxpo.models.heads import value
from jaxpo.objectives.base import Counts, Max, Mean, Metric, Min, Objective, Out, masked_mean
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.families.features import lengths
from jaxpo.objectives.families.pairs import other_roles, pair_counts, pair_present, reduce_terms

Tree = Any


@struct.dataclass
class Rewards:
    """The features of a reward model.

    Attributes:
      chosen, rejected: `[N]` scores of the two responses.
      present: `[N]` False where there is no pair.
      columns: the batch's per-example columns.
      others: further roles by name -> `[N]` scores and presence.
    """

    chosen: Float[Array, "N"]
    rejected: Float[Array, "N"]
    present: Bool[Array, "N"]
    columns: dict[str, Array]
    others: dict[str, tuple[Array, Array]] = struct.field(default_factory=dict)


def no_metrics(x: Rewards) -> dict[str, Metric]:
    """Nothing beyond the common ones."""
    return {}


def reward_pairs(
    name: str,
    scorer: Scorer,
    loss: Callable[[Rewards], Array],
    *,
    needs: Needs,
    metrics: Callable[[Rewards], dict[str, Metric]] = no_metrics,
) -> Objective:
    """A reward model on pairs: `r = w^T h` at the last real token of each segment, mean loss over the step's pairs.

    Args:
      loss: `[N]`, 0 where there is no pair.
      metrics: beyond the common ones.
    """

    def encode(params: Tree, frozen: Tree, batch: Batch, rng: Array | None) -> tuple[Rewards, dict[str, Any]]:
        hidden, aux = scorer.run(params["model"], batch)
        # Only the last tokens go through the head, in float32: rewards are small differences.
        scores = value(params["value"], last_of(hidden, batch))
        chosen, rejected = (take(scores, batch.roles[role], batch) for role in ("chosen", "rejected"))
        present = pair_present(batch, lengths(batch, "chosen"), lengths(batch, "rejected"))
        others = {
            role: (take(scores, batch.roles[role], batch), lengths(batch, role) > 0)
            for role in other_roles(needs, batch)
        }
        return Rewards(chosen, rejected, present, dict(batch.per_example), others), aux

    def evaluate(x: Rewards, batch: Batch, carry: Tree, counts: Counts) -> Out:
        return Out(reduce_terms(loss(x), counts), reward_metrics(x) | metrics(x), {})

    return Objective(name, pair_counts, encode, evaluate, needs=needs)


def reward_metrics(x: Rewards) -> dict[str, Metric]:
    """TRL's metrics of a reward trainer; equal rewards count as wrong."""
    both = jnp.stack([x.chosen, x.rejected])
    here = jnp.stack([x.present, x.present])
    mean: Mean = masked_mean(both, here)
    return {
        "accuracy": masked_mean((x.chosen > x.rejected).astype(jnp.float32), x.present),
        "margin": masked_mean(x.chosen - x.rejected, x.present),
        "mean_reward": mean,
        "min_reward": Min(jnp.min(jnp.where(here, both, jnp.inf))),
        "max_reward": Max(jnp.max(jnp.where(here, both, -jnp.inf))),
    }
