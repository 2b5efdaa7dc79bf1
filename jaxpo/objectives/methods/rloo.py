"""REINFORCE with a leave-one-out baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.rollouts import ROLLOUTS, Advantage, RolloutMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.families.rollouts import Rollouts


@dataclass(frozen=True)
class RLOO(RolloutMethod):
    """An answer is one action, whose reward is compared with the mean of the others of its group.

    Attributes:
      epsilon: how far below 1 the ratio of an answer counts.
      epsilon_high: how far above 1; None = epsilon.
    """

    epsilon: float = number(0.2, above=0)
    epsilon_high: float | None = number(None, above=0)

    INFO = Info(
        name="rloo",
        family="rollouts",
        paper="Back to Basics: Revisiting REINFORCE Style Optimization for Learning from Human Feedback in LLMs",
        arxiv="2402.14740",
        certainty="agrees with TRL at beta 0; the KL that TRL takes from the rewards is not there yet",
    )
    NEEDS = ROLLOUTS

    @property
    def advantage(self) -> Advantage:
        return Advantage("leave_one_out", "none")

    def terms(self, x: Rollouts, max_completion_length: int) -> dict[str, Array]:
        from jaxpo.losses import rloo

        advantages = x.of_answer(x.advantages)
        high = self.epsilon_high
        return {"answers": rloo(x.logps, x.old_logps, advantages, x.mask, epsilon=self.epsilon, epsilon_high=high)}
