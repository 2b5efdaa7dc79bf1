"""Generalised knowledge distillation: the teacher's distributions on answers of the student."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxpo.objectives.methods.answering import Answering, By
from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.distillation import WHOLE, Distillation
from jaxpo.objectives.methods.rollouts import Advantage, FromAnswers

if TYPE_CHECKING:
    from jax import Array


@dataclass(frozen=True)
class GKD(FromAnswers, Distillation):
    """Generalised Jensen-Shannon divergence from a teacher, on what the student writes and on the data.

    Attributes:
      ce_weight: of the cross-entropy of the answers, 0 as in the paper.
      kd_weight: of the divergence.
      lmbda: probability that a prompt is answered by the student; else its row's completion is the answer.
      seq_kd: the teacher writes the other answers, instead of the rows (sequence-level distillation).
      beta: of the divergence: 0 = forward KL, 1 = reverse KL.
      temperature: of both distributions in the loss; that of the sampling is the stage's.
    """

    ce_weight: float = number(0.0, at_least=0)
    lmbda: float = number(0.5, at_least=0, at_most=1)
    seq_kd: bool = False
    beta: float = number(0.5, at_least=0, at_most=1)
    temperature: float = number(1.0, above=0)

    INFO = Info(
        name="gkd",
        family="rollouts",
        paper="On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes",
        arxiv="2306.13649",
        certainty="paper, Algorithm 1 and Equation 1; TRL draws the source of a whole batch, here each prompt's is",
        function="jaxpo.losses.generalized_jsd",
    )
    NEEDS = WHOLE

    def problems(self) -> list[str]:
        found = super().problems()
        if self.seq_kd and self.lmbda == 1:
            found.append("gkd.seq_kd: at lmbda 1 the student writes all answers, the teacher none; give lmbda below 1.")
        return found

    @property
    def advantage(self) -> Advantage:
        """There are no rewards."""
        return Advantage("none", "none")

    @property
    def answering(self) -> Answering:
        """The student or the data, or the teacher, prompt by prompt."""
        other: By = "policy_or_teacher" if self.seq_kd else "policy_or_data"
        return Answering(other if self.lmbda < 1 else "policy", self.lmbda, rewarded=False)

    def per_token(self, logits: Array, teacher: Array) -> Array:
        from jaxpo.losses import generalized_jsd

        return generalized_jsd(logits, teacher, beta=self.beta, tau=self.temperature)
