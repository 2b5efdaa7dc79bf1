"""Bradley-Terry reward model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxpo.data.rows.needs import Needs
from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.rewards import RewardMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.families.rewards import Rewards


@dataclass(frozen=True)
class BradleyTerry(RewardMethod):
    """Reward model on pairs: a value head at each response's last token. A column `margin` is used where there is one.

    Attributes:
      label_smoothing: probability that a label is flipped.
      center_rewards_coefficient: weight of the squared sum of the two rewards (0.01 where it is used); None = off.
    """

    label_smoothing: float = number(0.0, at_least=0, at_most=0.5)
    center_rewards_coefficient: float | None = None

    INFO = Info(
        name="bradley_terry",
        family="reward model",
        paper="Rank analysis of incomplete block designs (1952)",
        arxiv="",
        certainty="textbook; margin and centring agree with TRL",
        aliases=("bt",),
    )
    NEEDS = Needs(roles=("chosen", "rejected"), extra=("value",))

    def problems(self) -> list[str]:
        """Also the optional coefficient's range."""
        found = super().problems()
        c = self.center_rewards_coefficient
        if c is not None and not c >= 0:
            found.append(
                f"bradley_terry: center_rewards_coefficient is {c!r} but must be a number at least 0, or None."
            )
        return found

    def loss(self, x: Rewards) -> Array:
        """`[N]`, 0 where there is no pair."""
        from jaxpo.losses import bradley_terry

        return bradley_terry(
            *x.pair(),
            x.columns.get("margin"),
            label_smoothing=self.label_smoothing,
            center_rewards_coefficient=self.center_rewards_coefficient or 0.0,
            where=x.present,
        )
