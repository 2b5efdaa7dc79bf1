"""REINFORCE with a leave-one-out baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.rollouts import (
    PENALISED,
    ROLLOUTS,
    Advantage,
    Estimator,
    Penalty,
    PolicyGradient,
    penalty_of,
)

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.base import Metric
    from jaxpo.objectives.families.rollouts import Rollouts


@dataclass(frozen=True)
class RLOO(PolicyGradient):
    """An answer is one action, whose reward is compared with the mean of the others of its group.

    Attributes:
      beta: weight of the KL to the reference that is taken from an answer's reward; at 0 there is no reference.
      epsilon: how far below 1 the ratio of an answer counts.
      epsilon_high: how far above 1; None = epsilon.
      kl_estimator: of the KL in the reward.
      target_kl: KL of an answer, in nats, that beta is led towards; None = beta stays.
      horizon: answers over which beta may change by 0.2 of itself.
      importance_sampling_correction: as of GRPO, for whole answers.
      importance_sampling_cap: see there.
      importance_sampling_floor: see there.
    """

    beta: float = number(0.05, at_least=0)
    epsilon: float = number(0.2, above=0)
    epsilon_high: float | None = number(None, above=0)
    kl_estimator: Estimator = "k1"
    target_kl: float | None = number(None, above=0)
    horizon: float = number(10_000.0, above=0)

    INFO = Info(
        name="rloo",
        family="rollouts",
        paper="Back to Basics: Revisiting REINFORCE Style Optimization for Learning from Human Feedback in LLMs",
        arxiv="2402.14740",
        certainty="TRL's loss and defaults, the KL in the rewards among them; the metric `reward` is without that KL",
    )
    NEEDS = PENALISED

    def __post_init__(self) -> None:
        if self.beta == 0:
            object.__setattr__(self, "NEEDS", ROLLOUTS)

    def problems(self) -> list[str]:
        found = super().problems()
        if self.importance_sampling_correction.startswith("token"):
            found.append(
                "rloo.importance_sampling_correction: an answer is one action, and has one weight; give "
                '"sequence_mask", "sequence_truncate" or "none".'
            )
        return found

    @property
    def penalty(self) -> Penalty | None:
        return penalty_of(self.beta, self.kl_estimator, self.target_kl, self.horizon)

    @property
    def advantage(self) -> Advantage:
        return Advantage("leave_one_out", "none")

    def terms(self, x: Rollouts, max_completion_length: int) -> dict[str, Array]:
        from jaxpo.losses import rloo

        advantages, high = x.of_answer(x.advantages), self.epsilon_high
        found = rloo(x.logps, x.old_logps, advantages, x.mask, epsilon=self.epsilon, epsilon_high=high)
        weights = self.corrections(x)
        return {"answers": found if weights is None else found * x.of_answer(weights)}

    def metrics(self, x: Rollouts) -> dict[str, Metric]:
        """`kl`: of an answer, summed over its tokens, as in TRL; its weight `objective/kl_coef`."""
        from jaxpo.objectives.families.rollouts import penalty_metrics

        found = penalty_metrics(x, self.penalty)
        return found | ({"kl": found["objective/kl"]} if found else {})
