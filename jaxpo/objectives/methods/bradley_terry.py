"""Bradley-Terry reward model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from jaxpo.data.rows.needs import Needs
from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.scores import PairScoreMethod

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jax import Array

    from jaxpo.objectives.families.pairs import Terms
    from jaxpo.objectives.families.rewards import Rewards


@dataclass(frozen=True)
class BradleyTerry(PairScoreMethod):
    """Reward model on pairs: a value head at each response's last token.

    Attributes:
      label_smoothing: probability that a label is flipped.
      center_rewards_coefficient: weight of the squared sum of the two rewards (0.01 where it is used); None = off.
      temperature: of the difference of the rewards.
      margin: what a column `margin` does where there is one: "shift" the difference that is asked for, "weight" the
        pair, which it must then be positive for, or "ignore".
      soft_labels: the share of a pair's `votes` for the chosen response is the probability that it is the better one.
      lm_coefficient: weight of the negative log-likelihood per token of the chosen responses, beside the loss.
      yes_no: ids of two tokens whose log-odds after the response are its reward, instead of a value head.
    """

    label_smoothing: float = number(0.0, at_least=0, at_most=0.5)
    center_rewards_coefficient: float | None = None
    temperature: float = number(1.0, above=0)
    margin: Literal["shift", "weight", "ignore"] = "shift"
    soft_labels: bool = False

    INFO = Info(
        name="bradley_terry",
        family="reward model",
        paper="Rank analysis of incomplete block designs (1952)",
        arxiv="",
        certainty="textbook; margin and centring agree with TRL",
        aliases=("bt", "worldpm"),
    )
    NEEDS = Needs(roles=("chosen", "rejected"), extra=("value",))

    def __post_init__(self) -> None:
        super().__post_init__()
        needed = {"margin": self.margin == "weight", "votes": self.soft_labels}
        columns = tuple(name for name, asked in needed.items() if asked)
        object.__setattr__(self, "NEEDS", replace(self.NEEDS, columns=columns))

    def problems(self) -> list[str]:
        """Also the optional coefficient's range."""
        found = super().problems()
        c = self.center_rewards_coefficient
        if c is not None and not c >= 0:
            found.append(
                f"bradley_terry: center_rewards_coefficient is {c!r} but must be a number at least 0, or None."
            )
        return found

    def check_columns(self, columns: Mapping[str, Any]) -> list[str]:
        """Weights must be positive."""
        import numpy as np

        if self.margin != "weight" or np.all(np.asarray(columns.get("margin", 1.0)) > 0):
            return []
        lowest = float(np.min(columns["margin"]))
        remedy = 'remove such rows, or set margin to "shift" or "ignore".'
        return [f"bradley_terry: a pair's margin is {lowest:g}, but as its weight it must be above 0; {remedy}"]

    def loss(self, x: Rewards) -> Terms:
        """`[N]`, 0 where there is no pair; and the likelihood."""
        from jaxpo.losses import bradley_terry

        margin = x.columns.get("margin")
        loss = bradley_terry(
            *x.pair(),
            margin if self.margin == "shift" else None,
            weight=margin if self.margin == "weight" else None,
            probability=vote_share(x.columns["votes"], x.present) if self.soft_labels else None,
            temperature=self.temperature,
            label_smoothing=self.label_smoothing,
            center_rewards_coefficient=self.center_rewards_coefficient or 0.0,
            where=x.present,
        )
        return self.with_likelihood(x, loss)


def vote_share(votes: Array, present: Array) -> Array:
    """Share of the votes for the chosen response, `[N, 2] -> [N]`."""
    import jax.numpy as jnp

    return votes[:, 0] / jnp.where(present, jnp.sum(votes, axis=1), 1.0)
