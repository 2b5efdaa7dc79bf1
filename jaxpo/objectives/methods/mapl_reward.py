"""Multi-level aware preference learning of a reward model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from jaxpo.data.rows.needs import Needs
from jaxpo.objectives.methods import mapl as shared
from jaxpo.objectives.methods.base import Info, Method, number
from jaxpo.objectives.methods.options import Options

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.base import Metric, Objective
    from jaxpo.objectives.encode import Scorer
    from jaxpo.objectives.families.rewards import Rewards


@dataclass(frozen=True)
class MAPLReward(Method):
    """Reward model on pairs, plus which of two prompts a response fits and how clear-cut a pair is under another.

    A value head at each response's last token gives the scores. Rows may carry `inter_prompt, inter_sign` and `intra`;
    `jaxpo data construct mapl` makes them. A row without them has its Bradley-Terry term alone; a column `margin` is
    not used.

    Attributes:
      intra_weight: of the comparison of two prompts for one response.
      inter_weight: of the comparison of two preference gaps.
    """

    intra_weight: float = number(1.0, at_least=0)
    inter_weight: float = number(1.0, at_least=0)

    INFO = Info(
        name="mapl_reward",
        function="jaxpo.losses.mapl",
        family="reward model",
        paper="Multi-Level Aware Preference Learning: Enhancing RLHF for Complex Multi-Instruction Tasks",
        arxiv="2505.12845",
        certainty="intra term from a review and a sibling paper; inter term reconstructed, weights unknown",
    )
    NEEDS = Needs(roles=shared.ENDS, extra=("value",), optional_roles=(*shared.INTER, *shared.INTRA))
    METRICS: ClassVar[tuple[str, ...]] = shared.MEASURED

    def gathered(self, x: Rewards) -> tuple[tuple[Array, ...], dict[str, Array]]:
        """The arguments of `jaxpo.losses.mapl`, of scores that are rewards, and its masks."""
        return shared.gathered(x.chosen, x.rejected, x.others, x.present, x.columns)

    def loss(self, x: Rewards) -> Array:
        """`[N]`, 0 where there is no pair."""
        from jaxpo.losses import mapl

        scores, masks = self.gathered(x)
        settings: dict[str, Any] = masks | {"intra_weight": self.intra_weight, "inter_weight": self.inter_weight}
        return mapl(*scores, where=x.present, **settings)

    def metrics(self, x: Rewards) -> dict[str, Metric]:
        """Both accuracies, of the rewards."""
        return shared.accuracies(*self.gathered(x))

    def objective(self, scorer: Scorer, options: Options) -> Objective:
        from jaxpo.objectives.families.rewards import reward_pairs

        return reward_pairs(self.INFO.name, scorer, self.loss, needs=self.NEEDS, metrics=self.metrics)
