"""Reward models on pairs that may be tied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxpo.data.rows.needs import Needs
from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.scores import PairScoreMethod

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxpo.objectives.families.pairs import Terms
    from jaxpo.objectives.families.rewards import Rewards

WITH_TIES = Needs(roles=("chosen", "rejected"), columns=("tie",), extra=("value",))


def tied_problem(name: str, columns: Mapping[str, Any], remedy: str) -> list[str]:
    """One sentence where pairs are tied and a setting forbids it."""
    import numpy as np

    tied = int(np.sum(columns.get("tie", 0)))
    return [f"{name}: {tied} pair(s) are tied, and with {remedy}"] if tied else []


@dataclass(frozen=True)
class RaoKupper(PairScoreMethod):
    """Reward model on pairs with ties: no difference is seen between rewards closer than a threshold.

    Rows have a column `tie`; of a tied pair it does not matter which response is called chosen.

    Attributes:
      threshold: t; rewards less than log t apart are more often called equal than ordered. 1 forbids ties.
      temperature: of the difference of the rewards.
      center_rewards_coefficient: weight of the squared sum of the two rewards; 0 = off.
      lm_coefficient: weight of the negative log-likelihood per token of the chosen responses, beside the loss.
      yes_no: ids of two tokens whose log-odds after the response are its reward, instead of a value head.
    """

    threshold: float = number(1.5, at_least=1)
    temperature: float = number(1.0, above=0)
    center_rewards_coefficient: float = number(0.0, at_least=0)

    INFO = Info(
        name="rao_kupper",
        family="reward model",
        paper="Ties in Paired-Comparison Experiments: A Generalization of the Bradley-Terry Model (1967)",
        arxiv="",
        certainty="textbook",
    )
    NEEDS = WITH_TIES

    def check_columns(self, columns: Mapping[str, Any]) -> list[str]:
        """A threshold of 1 leaves no room for ties."""
        remedy = "threshold 1 a tie is impossible; raise the threshold, or remove the tied rows."
        return tied_problem("rao_kupper", columns, remedy) if self.threshold == 1 else []

    def loss(self, x: Rewards) -> Terms:
        """`[N]`, 0 where there is no pair; and the likelihood."""
        from jaxpo.losses import rao_kupper

        settings: dict[str, Any] = {"threshold": self.threshold, "temperature": self.temperature, "where": x.present}
        loss = rao_kupper(*x.pair(), x.columns["tie"], **settings)
        return self.centred(x, loss, self.center_rewards_coefficient)


@dataclass(frozen=True)
class Davidson(PairScoreMethod):
    """Reward model on pairs with ties: a tie is a third outcome between the two.

    Rows have a column `tie`; of a tied pair it does not matter which response is called chosen.

    Attributes:
      nu: how frequent ties are; between equal rewards a tie has probability nu / (2 + nu). 0 forbids ties.
      temperature: of the difference of the rewards.
      center_rewards_coefficient: weight of the squared sum of the two rewards; 0 = off.
      lm_coefficient: weight of the negative log-likelihood per token of the chosen responses, beside the loss.
      yes_no: ids of two tokens whose log-odds after the response are its reward, instead of a value head.
    """

    nu: float = number(0.5, at_least=0)
    temperature: float = number(1.0, above=0)
    center_rewards_coefficient: float = number(0.0, at_least=0)

    INFO = Info(
        name="davidson",
        family="reward model",
        paper="On Extending the Bradley-Terry Model to Accommodate Ties in Paired Comparison Experiments (1970)",
        arxiv="",
        certainty="textbook",
    )
    NEEDS = WITH_TIES

    def check_columns(self, columns: Mapping[str, Any]) -> list[str]:
        """nu = 0 leaves no room for ties."""
        remedy = "nu 0 a tie is impossible; raise nu, or remove the tied rows."
        return tied_problem("davidson", columns, remedy) if self.nu == 0 else []

    def loss(self, x: Rewards) -> Terms:
        """`[N]`, 0 where there is no pair; and the likelihood."""
        from jaxpo.losses import davidson

        settings: dict[str, Any] = {"nu": self.nu, "temperature": self.temperature, "where": x.present}
        loss = davidson(*x.pair(), x.columns["tie"], **settings)
        return self.centred(x, loss, self.center_rewards_coefficient)
