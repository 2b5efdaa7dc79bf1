"""Plackett-Luce reward model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxpo.data.rows.needs import Needs
from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.list_checks import Ties, tie_problem
from jaxpo.objectives.methods.scores import ScoreMethod

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jax import Array

    from jaxpo.objectives.base import Metric
    from jaxpo.objectives.families.rewards import Rewards


@dataclass(frozen=True)
class PlackettLuce(ScoreMethod):
    """Reward model on ranked lists: the likelihood of their order, best first.

    Attributes:
      top_k: only the best k and their order are learnt; those after them are an unordered rest. None = the whole order.
      temperature: of the rewards.
      ties: what to do about equal scores, which Plackett-Luce does not know.
      yes_no: ids of two tokens whose log-odds after the response are its reward, instead of a value head.
    """

    top_k: int | None = number(None, at_least=1)
    temperature: float = number(1.0, above=0)
    ties: Ties = "error"

    INFO = Info(
        name="plackett_luce",
        function="jaxpo.losses.list_mle",
        family="reward model",
        paper="The Analysis of Permutations (1975)",
        arxiv="",
        certainty="textbook",
    )
    NEEDS = Needs(roles=("candidate",), columns=("scores",), extra=("value",))

    def check_columns(self, columns: Mapping[str, Any]) -> list[str]:
        """No two responses of a list may be equally good."""
        return tie_problem("plackett_luce", "an order has no ties", columns) if self.ties == "error" else []

    def loss(self, x: Rewards) -> Array:
        """`[N]`, summed over each list's places, 0 where there is no list."""
        from jaxpo.losses import list_mle

        candidates = x.roles["candidate"]
        where = x.present[:, None] & candidates.present
        return list_mle(candidates["score"] / self.temperature, x.columns["scores"], where, top_k=self.top_k)

    def common_metrics(self, features: Rewards) -> dict[str, Metric]:
        """TRL's metrics of a reward trainer, over every two candidates with different scores."""
        from jaxpo.objectives.families.rewards import list_metrics

        return list_metrics(features, self.reward(features.roles["candidate"])) | super().common_metrics(features)

    def right(self, features: Rewards) -> tuple[Array, Array]:
        """Every two candidates with different scores."""
        from jaxpo.objectives.families.rewards import differences

        difference, pairs = differences(features, self.reward(features.roles["candidate"]))
        return difference > 0, pairs
