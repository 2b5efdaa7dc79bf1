"""Outcome reward model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxpo.data.rows.needs import Needs
from jaxpo.objectives.methods.base import Info
from jaxpo.objectives.methods.scores import ScoreMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.base import Metric
    from jaxpo.objectives.families.rewards import Rewards


@dataclass(frozen=True)
class OutcomeReward(ScoreMethod):
    """Reward model on single responses, each right or wrong: its reward is the logit that it is right.

    Attributes:
      yes_no: ids of two tokens whose log-odds after the response are its reward, instead of a value head.
    """

    INFO = Info(
        name="outcome_reward",
        family="reward model",
        paper="Training Verifiers to Solve Math Word Problems",
        arxiv="2110.14168",
        certainty="paper, section 4, at the last token alone; a label at every token is not offered",
        aliases=("orm",),
    )
    NEEDS = Needs(roles=("completion",), columns=("label",), extra=("value",))

    def loss(self, x: Rewards) -> Array:
        """`[N]`, 0 where there is no response."""
        from jaxpo.losses import outcome_reward

        return outcome_reward(x.roles["completion"]["score"], x.columns["label"], where=x.present)

    def common_metrics(self, features: Rewards) -> dict[str, Metric]:
        """TRL's metrics of a reward trainer, against the labels."""
        from jaxpo.objectives.families.rewards import label_metrics

        own = label_metrics(features.roles["completion"]["score"], features.columns["label"], features.present)
        return own | super().common_metrics(features)

    def right(self, features: Rewards) -> tuple[Array, Array]:
        from jaxpo.objectives.families.rewards import on_side

        return on_side(features.roles["completion"]["score"], features.columns["label"]), features.present
