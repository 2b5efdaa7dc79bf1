"""Distillation on whole distributions; and what every method of distillation shares."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from jaxpo.data.rows.needs import TEACHER, Needs
from jaxpo.objectives.methods.base import Info, Method, number
from jaxpo.objectives.methods.options import Options

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.base import Objective
    from jaxpo.objectives.encode import Scorer

WHOLE = Needs(roles=("completion",), networks=(("teacher", "vocab"),))


@dataclass(frozen=True)
class Distillation(Method):
    """Cross-entropy and a loss from a teacher, each a mean over the supervised tokens.

    Attributes:
      ce_weight: of the cross-entropy of the data's own tokens.
      kd_weight: of the teacher's loss.
    """

    ce_weight: float = number(1.0, at_least=0)
    kd_weight: float = number(1.0, at_least=0)

    METRICS: ClassVar[tuple[str, ...]] = ("ce_loss", "kd_loss")

    @abstractmethod
    def per_token(self, logits: Array, teacher: Any) -> Array:
        """Unreduced loss of the student's logits `[..., V]` and the teacher's record or logits."""

    def problems(self) -> list[str]:
        found = super().problems()
        if not found and self.ce_weight == self.kd_weight == 0:
            found.append(f"{self.INFO.name}: ce_weight and kd_weight are both 0: there is nothing to learn from.")
        return found

    def objective(self, scorer: Scorer, options: Options) -> Objective:
        from jaxpo.objectives.families.distilled import distillation

        taught = options.scorers.get(TEACHER)
        return distillation(
            self.INFO.name,
            self.NEEDS,
            scorer,
            self.per_token,
            ce_weight=self.ce_weight,
            kd_weight=self.kd_weight,
            top_k=getattr(self, "top_k", None),
            records=TEACHER in options.recorded,
            teacher_scorer=None if taught is None else scorer.alike(taught),
        )


@dataclass(frozen=True)
class ForwardKL(Distillation):
    """KL of the student from the teacher over the whole vocabulary.

    Attributes:
      ce_weight: of the cross-entropy.
      kd_weight: of the KL.
      tau: temperature of both distributions.
      tau_squared: multiply the KL by tau^2.
    """

    tau: float = number(1.0, above=0)
    tau_squared: bool = False

    INFO = Info(
        name="forward_kl",
        family="distillation",
        paper="Distilling the Knowledge in a Neural Network",
        arxiv="1503.02531",
        certainty="the paper's formula; it multiplies by tau^2, here an option",
    )
    NEEDS = WHOLE

    def per_token(self, logits: Array, teacher: Array) -> Array:
        from jaxpo.losses import forward_kl

        return forward_kl(logits, teacher, tau=self.tau, tau_squared=self.tau_squared)


@dataclass(frozen=True)
class ReverseKL(Distillation):
    """KL of the teacher from the student over the whole vocabulary.

    Attributes:
      ce_weight: of the cross-entropy.
      kd_weight: of the KL.
      tau: temperature of both distributions.
      tau_squared: multiply the KL by tau^2.
    """

    tau: float = number(1.0, above=0)
    tau_squared: bool = False

    INFO = Info(
        name="reverse_kl",
        family="distillation",
        paper="MiniLLM: Knowledge Distillation of Large Language Models",
        arxiv="2306.08543",
        certainty="the paper's divergence, per token of the data; the paper takes it over the student's own samples",
    )
    NEEDS = WHOLE

    def per_token(self, logits: Array, teacher: Array) -> Array:
        from jaxpo.losses import reverse_kl

        return reverse_kl(logits, teacher, tau=self.tau, tau_squared=self.tau_squared)


@dataclass(frozen=True)
class GeneralizedJSD(Distillation):
    """Generalised Jensen-Shannon divergence of teacher and student.

    Attributes:
      ce_weight: of the cross-entropy.
      kd_weight: of the divergence.
      beta: 0 = forward KL, 1 = reverse KL.
      tau: temperature of both distributions.
    """

    beta: float = number(0.5, at_least=0, at_most=1)
    tau: float = number(1.0, above=0)

    INFO = Info(
        name="generalized_jsd",
        family="distillation",
        paper="On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes",
        arxiv="2306.13649",
        certainty="agrees with TRL's GKD trainer on the data's own tokens (its lmbda = 0); TRL's default tau is 0.9",
    )
    NEEDS = WHOLE

    def per_token(self, logits: Array, teacher: Array) -> Array:
        from jaxpo.losses import generalized_jsd

        return generalized_jsd(logits, teacher, beta=self.beta, tau=self.tau)
