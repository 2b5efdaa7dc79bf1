"""Objectives over pairs and answers in one step: offline pairs beside what the model writes."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from jaxpo.data.packing.batch import Batch
from jaxpo.data.rows.needs import Needs
from jaxpo.objectives.base import Metric, masked_mean
from jaxpo.objectives.families.features import Scores, Shape, Wanted
from jaxpo.objectives.families.pairs import SIDES, Pair, pair_counts, pair_features, pair_metrics
from jaxpo.objectives.families.rollouts import Rollouts, answer_metrics, rollout_counts, rollout_features

ROLES = (*SIDES, "completion")


@struct.dataclass
class PairsAndAnswers:
    """The features of a method on both; an example is a pair or an answer.

    Attributes:
      pair, answers: `[N]` each, in the same places.
    """

    pair: Pair
    answers: Rollouts

    @property
    def columns(self) -> dict[str, Array]:
        """The batch's per-example columns."""
        return self.answers.columns

    @property
    def trained(self) -> Bool[Array, "N"]:
        """Where there is an answer that is trained on: of one that was cut off the mask may be empty."""
        return self.answers.present & self.answers.mask.any(axis=-1)

    @property
    def log_ratio(self) -> Float[Array, "N"]:
        """log pi - log ref of each answer, with the gradient of the former."""
        return jnp.where(self.trained, self.answers.answer.log_ratio, 0.0)


def _whole(batch: Batch, per_token: tuple[str, ...] = ()) -> Batch:
    """The batch, with nobody in the roles that it lacks: held-out rows hold pairs alone."""
    nobody = jnp.full(batch.example_id.shape, -1, jnp.int32)
    zeros = jnp.zeros(batch.tokens.shape, jnp.float32)
    roles = {role: nobody for role in ROLES if role not in batch.roles}
    columns = {name: zeros for name in per_token if name not in batch.per_token}
    groups = {} if "group" in batch.per_example else {"group": jnp.zeros(nobody.shape, jnp.float32)}
    changed: Batch = batch.replace(  # type: ignore[attr-defined]
        roles={**batch.roles, **roles},
        per_token={**batch.per_token, **columns},
        per_example={**batch.per_example, **groups},
    )
    return changed


def hybrid_features(scores: Scores, batch: Batch, want: Wanted, extra: dict[str, Array]) -> PairsAndAnswers:
    """Gather pairs and answers from one pass over both."""
    batch = _whole(batch, want.needs.per_token)
    of_pairs = replace(want, needs=Needs(roles=SIDES, networks=want.needs.networks), tokens=False)
    pair = pair_features(scores, batch, of_pairs, {})
    return PairsAndAnswers(pair, rollout_features(scores, batch, replace(want, tokens=True), extra))


def hybrid_counts(batch: Batch, needs: Needs) -> dict[str, Float[Array, ""]]:
    """Denominators of the step: pairs and their chosen tokens, answers and their tokens."""
    batch = _whole(batch)
    return pair_counts(batch) | rollout_counts(batch, needs)


def hybrid_metrics(x: PairsAndAnswers, reward: object) -> dict[str, Metric]:
    """TRL's metrics of pairs; of the answers their lengths, and `kl`: log pi - log ref of an answer."""
    found: dict[str, Metric] = dict(pair_metrics(x.pair, reward))  # type: ignore[arg-type]
    lengths = {k: v for k, v in answer_metrics(x.answers.columns, x.answers.present).items() if "completions" in k}
    return found | lengths | {"kl": masked_mean(x.log_ratio, x.trained)}


HYBRID_SHAPE = Shape(hybrid_features, hybrid_counts, hybrid_metrics)
