"""Process reward model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from jaxpo.data.rows.needs import Needs
from jaxpo.objectives.methods.base import Info
from jaxpo.objectives.methods.scores import ScoreMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.data.packing.batch import Batch
    from jaxpo.objectives.base import Metric
    from jaxpo.objectives.families.rewards import Reading, Rewards


@dataclass(frozen=True)
class ProcessReward(ScoreMethod):
    """Reward model of the steps of an answer: at the end of each, the logit that it is right.

    Attributes:
      combine: how the steps' probabilities make the reward of an answer.
      last_step_only: train on each answer's last labelled step alone, as an outcome reward model does.
      separator: what ends a step where an answer is scored that is one text; the training rows have their own.
      yes_no: ids of two tokens whose log-odds after the step are its logit, instead of a value head.
    """

    combine: Literal["min", "product", "last", "mean"] = "min"
    last_step_only: bool = False
    separator: str = "\n"

    INFO = Info(
        name="process_reward",
        family="reward model",
        paper="Let's Verify Step by Step",
        arxiv="2305.20050",
        certainty="paper, section 2.6; layout of steps and separators as in TRL's PRM trainer",
        aliases=("prm",),
    )
    NEEDS = Needs(roles=("completion",), columns=("labels",), extra=("value",), per_token=("step_end",))
    PER_TOKEN: ClassVar[tuple[str, ...]] = ("score",)

    def problems(self) -> list[str]:
        """Also a separator that is none."""
        found = super().problems()
        return found if self.separator else [*found, "process_reward: separator is empty, so no step would end."]

    def read(
        self, params: Any, hidden: Array, ends: Array, prompt_ends: Array, per_token: Mapping[str, Array]
    ) -> dict[str, Array]:
        """ "score" `[R, S]`, at every token; it counts where a step ends."""
        from jaxpo.models.heads import log_odds, value

        if self.yes_no is None:
            return {"score": value(params["value"], hidden)}
        return {"score": log_odds(params["output"], hidden, *self.yes_no)}

    def reward(self, reading: Reading) -> Array:
        """What the steps come to, in [0, 1]."""
        from jaxpo.losses import solution_score

        return solution_score(reading["score"], ended(reading.columns["step_end"]), how=self.combine)

    def counts(self, batch: Batch) -> dict[str, Array]:
        """Also "steps", those that are trained on."""
        import jax.numpy as jnp

        from jaxpo.objectives.families.rewards import examples_present, rows_at

        steps = rows_at(batch.per_token["step_end"], batch.roles["completion"], batch)
        _, where = self.labelled(steps, batch.per_example["labels"], examples_present(batch, self.NEEDS))
        return super().counts(batch) | {"steps": jnp.sum(where.astype(jnp.float32))}

    def labelled(self, steps: Array, labels: Array, present: Array) -> tuple[Array, Array]:
        """Label of the step that ends at each token, and where one ends that is trained on, both `[N, T]`."""
        import jax.numpy as jnp

        from jaxpo.losses.process_reward import last_of_row

        label = jnp.take_along_axis(labels, jnp.maximum(steps - 1, 0), axis=1)
        where = ended(steps) & (label >= 0) & present[:, None]
        return label, last_of_row(where) if self.last_step_only else where

    def loss(self, x: Rewards) -> dict[str, Array]:
        """`[N]`, summed over each answer's steps."""
        from jaxpo.losses import process_reward

        role = x.roles["completion"]
        label, where = self.labelled(role.columns["step_end"], x.columns["labels"], x.present)
        return {"steps": process_reward(role["score"], label, where)}

    def common_metrics(self, features: Rewards) -> dict[str, Metric]:
        """TRL's metrics of a reward trainer, of steps against their labels, and of whole answers' rewards."""
        from jaxpo.objectives.families.rewards import label_metrics

        role = features.roles["completion"]
        label, where = self.labelled(role.columns["step_end"], features.columns["labels"], features.present)
        return label_metrics(role["score"], label, where) | super().common_metrics(features)

    def right(self, features: Rewards) -> tuple[Array, Array]:
        """Every step that is trained on."""
        from jaxpo.objectives.families.rewards import on_side

        role = features.roles["completion"]
        label, where = self.labelled(role.columns["step_end"], features.columns["labels"], features.present)
        return on_side(role["score"], label), where


def ended(steps: Array) -> Array:
    """True at the last token that carries a step's number."""
    import jax.numpy as jnp

    after = jnp.pad(steps[..., 1:], [*[(0, 0)] * (steps.ndim - 1), (0, 1)])
    return (steps > 0) & (steps != after)
