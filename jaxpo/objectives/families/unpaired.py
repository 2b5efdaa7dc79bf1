"""Objectives over single responses with a good/bad label."""

from __future__ import annotations

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from jaxpo.data.packing.batch import Batch
from jaxpo.data.rows.needs import Needs
from jaxpo.objectives.base import Difference, Metric, masked_mean
from jaxpo.objectives.families.features import Scores, Shape, Side, Wanted, lengths, side
from jaxpo.objectives.families.pairs import Reward, per_supervised_token


@struct.dataclass
class Unpaired:
    """The features of a method on single responses.

    Attributes:
      completion: the response.
      good: `[N]` its label.
      present: `[N]` False where there is no row.
      columns: the batch's per-example columns.
      others: further roles by name: "kl", another row's response under this row's prompt, for KTO.
      extra: what the method's `encode_extra` made.
    """

    completion: Side
    good: Bool[Array, "N"]
    present: Bool[Array, "N"]
    columns: dict[str, Array]
    others: dict[str, Side] = struct.field(default_factory=dict)
    extra: dict[str, Array] = struct.field(default_factory=dict)

    @property
    def kl(self) -> Side:
        """The mismatched responses."""
        if "kl" not in self.others:
            raise ValueError('the reference point needs the role "kl"')
        return self.others["kl"]


def unpaired_features(scores: Scores, batch: Batch, want: Wanted, extra: dict[str, Array]) -> Unpaired:
    """Gather the completions, and the mismatched ones where the method asks for them."""
    completion = side(scores, batch, "completion", want)
    present = unpaired_present(batch, completion.length)
    others = {"kl": side(scores, batch, "kl", want)} if "kl" in want.needs.roles else {}
    good = batch.per_example["label"] > 0
    return Unpaired(completion, good, present, dict(batch.per_example), others, extra)


def unpaired_present(batch: Batch, length: Array) -> Bool[Array, "N"]:
    """True for rows that have a response with at least one supervised token."""
    return batch.present & (batch.roles["completion"] >= 0) & (length > 0)


def unpaired_counts(batch: Batch, needs: Needs) -> dict[str, Float[Array, ""]]:
    """Denominators of the step: rows, and rows of each label."""
    present = unpaired_present(batch, lengths(batch, "completion"))
    good = batch.per_example["label"] > 0
    return {name: jnp.sum(rows.astype(jnp.float32)) for name, rows in _rows(present, good).items()}


def _rows(present: Array, good: Array) -> dict[str, Array]:
    return {"rows": present, "chosen": present & good, "rejected": present & ~good}


def unpaired_metrics(x: Unpaired, reward: Reward) -> dict[str, Metric]:
    """TRL's metrics of an unpaired trainer; the margin is the difference of the two class means."""
    r = reward(x.completion)
    rows = _rows(x.present, x.good)
    chosen, rejected = masked_mean(r, rows["chosen"]), masked_mean(r, rows["rejected"])
    return {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margins": Difference(chosen, rejected),
        "logps/chosen": masked_mean(x.completion.logps, rows["chosen"]),
        "logps/rejected": masked_mean(x.completion.logps, rows["rejected"]),
        "entropy": per_supervised_token("entropy", x.present, x.completion),
        "mean_token_accuracy": per_supervised_token("correct", x.present, x.completion),
    }


UNPAIRED_SHAPE = Shape(unpaired_features, unpaired_counts, unpaired_metrics)
