"""Objectives over single responses with a good/bad label."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from jaxpo.data.batch import Batch
from jaxpo.data.needs import Needs
from jaxpo.objectives.base import Mean, masked_mean
from jaxpo.objectives.encode import Scorer
from jaxpo.objectives.preference import Reward, per_supervised_token
from jaxpo.objectives.preference_features import Side, lengths, score, side

Tree = Any


@struct.dataclass
class Unpaired:
    """The features of a method on single responses.

    Attributes:
      completion: the response.
      good: `[N]` its label.
      present: `[N]` False where there is no row.
      columns: the batch's per-example columns.
    """

    completion: Side
    good: Bool[Array, "N"]
    present: Bool[Array, "N"]
    columns: dict[str, Array]


def encode_unpaired(
    scorer: Scorer, params: Tree, frozen: Tree, batch: Batch, needs: Needs, cached_reference: bool
) -> Unpaired:
    """Run the networks and gather the completions."""
    scores = score(scorer, params, frozen, batch, needs, cached_reference)
    completion = side(scores, batch, "completion")
    good = batch.per_example["label"] > 0
    return Unpaired(completion, good, unpaired_present(batch, completion.length), dict(batch.per_example))


def unpaired_present(batch: Batch, length: Array) -> Bool[Array, "N"]:
    """True for rows that have a response with at least one supervised token."""
    return batch.present & (batch.roles["completion"] >= 0) & (length > 0)


def unpaired_counts(batch: Batch) -> dict[str, Float[Array, ""]]:
    """Denominators of the step: rows, and rows of each label."""
    present = unpaired_present(batch, lengths(batch, "completion"))
    good = batch.per_example["label"] > 0
    return {name: jnp.sum(rows.astype(jnp.float32)) for name, rows in _rows(present, good).items()}


def _rows(present: Array, good: Array) -> dict[str, Array]:
    return {"rows": present, "chosen": present & good, "rejected": present & ~good}


def unpaired_metrics(x: Unpaired, reward: Reward) -> dict[str, Mean]:
    """TRL's metrics of an unpaired trainer; the margin is the difference of the two class means of the batch."""
    r = reward(x.completion)
    rows = _rows(x.present, x.good)
    chosen, rejected = masked_mean(r, rows["chosen"]), masked_mean(r, rows["rejected"])
    both = ((chosen.count > 0) & (rejected.count > 0)).astype(jnp.float32)
    return {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margins": Mean(both * (chosen.value() - rejected.value()), both),
        "logps/chosen": masked_mean(x.completion.logps, rows["chosen"]),
        "logps/rejected": masked_mean(x.completion.logps, rows["rejected"]),
        "entropy": per_supervised_token("entropy", x.present, x.completion),
        "mean_token_accuracy": per_supervised_token("correct", x.present, x.completion),
    }
