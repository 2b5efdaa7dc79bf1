"""ORION's second stage: GRPO with a bonus for the shorter ones of a group's right answers (SLPO)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.grpo import GRPO
from jaxpo.objectives.methods.outcomes import Paid, replacing_problems
from jaxpo.objectives.methods.rollouts import Memory

if TYPE_CHECKING:
    import numpy as np

    from jaxpo.objectives.methods.outcomes import Outcomes


@dataclass(frozen=True)
class ORION(GRPO):
    """GRPO, with up to `alpha` more for a right answer by its place in the range of lengths of its group's right ones
    (Shorter Length Preference Optimization). A lone right answer, however long, keeps its whole reward.

    `scale_rewards="group"` makes the pressure in all-right groups independent of alpha; "none" and "batch" do not.

    Attributes:
      alpha: of the bonus.
      beta: as of GRPO.
      epsilon: see there.
      epsilon_high: see there.
      delta: see there.
      importance_sampling_level: see there.
      loss_type: see there.
      scale_rewards: see there.
      kl_estimator: see there.
      use_bias_correction_kl: see there.
      importance_sampling_correction: see there.
      importance_sampling_cap: see there.
      importance_sampling_floor: see there.
      geometric_mask: see there.
      off_policy_mask_threshold: see there.
      top_entropy_quantile: see there.
      sapo_temperature_pos: see there.
      sapo_temperature_neg: see there.
      vespo_k_pos: see there.
      vespo_lambda_pos: see there.
      vespo_k_neg: see there.
      vespo_lambda_neg: see there.
    """

    alpha: float = number(0.1, at_least=0)

    INFO = Info(
        name="orion",
        family="rollouts",
        paper="ORION: Teaching Language Models to Reason Efficiently in the Language of Thought",
        arxiv="2511.22891",
        certainty="the formula of a public summary that cites the paper's equation; alpha and the other settings are "
        "not confirmed, and there is no official code",
        function="jaxpo.losses.orion_rewards",
    )
    PAYS: ClassVar[bool] = True

    def problems_in(self, stage: Any) -> list[str]:
        return replacing_problems(self.INFO.name, stage)

    def paid(self, rewards: np.ndarray, outcomes: Outcomes, memory: Memory) -> Paid:
        from jaxpo.losses import orion_rewards

        bonus = orion_rewards(outcomes.lengths.astype(float), outcomes.right, alpha=self.alpha) - outcomes.right
        right = outcomes.right.sum(axis=1)
        return Paid(rewards + bonus, {"orion/bonus": float(bonus.sum() / max(right.sum(), 1))})
