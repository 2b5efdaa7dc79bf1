"""Distillation from the teacher's K likeliest tokens: the LFM2 report's, and its baselines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from jaxpo.data.rows.needs import Needs
from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.distillation import Distillation

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.losses import TopKRecord


@dataclass(frozen=True)
class TopKDistillation(Distillation):
    """A loss that reads the teacher's record.

    Attributes:
      top_k: K.
    """

    top_k: int = number(32, at_least=1)

    NEEDS = Needs(roles=("completion",), networks=(("teacher", "top_k"),))
    METRICS: ClassVar[tuple[str, ...]] = (*Distillation.METRICS, "teacher_mass", "student_mass")

    def problems(self) -> list[str]:
        found = super().problems()
        if not isinstance(self.top_k, int) or isinstance(self.top_k, bool):
            found.append(f"{self.INFO.name}: top_k is {self.top_k!r} but must be a whole number.")
        return found


@dataclass(frozen=True)
class DecoupledTopK(TopKDistillation):
    """Total mass of the teacher's top K at temperature 1, shape inside it at temperature tau.

    Attributes:
      ce_weight: of the cross-entropy.
      kd_weight: of the distillation loss.
      top_k: K, at most the vocabulary.
      tau: temperature inside the top K.
      tau_squared: multiply the inner term by tau^2.
    """

    tau: float = number(2.0, above=0)
    tau_squared: bool = False

    INFO = Info(
        name="decoupled_topk_kd",
        family="distillation",
        paper="LFM2 Technical Report",
        arxiv="2511.23404",
        certainty="formula and K as two readers quote it; tau, the factor tau^2 and the weights are not published, and "
        "the defaults are ours",
        aliases=("lfm2_kd",),
    )

    def per_token(self, logits: Array, teacher: TopKRecord) -> Array:
        import jax.numpy as jnp

        from jaxpo.losses import decoupled_topk_kd

        return decoupled_topk_kd(
            logits,
            teacher.logps,
            jnp.zeros_like(teacher.log_odds),
            teacher.ids,
            tau=self.tau,
            tau_squared=self.tau_squared,
            log_odds=teacher.log_odds,
        )


@dataclass(frozen=True)
class BucketTopK(TopKDistillation):
    """KL over K + 1 buckets at temperature 1.

    Attributes:
      ce_weight: of the cross-entropy.
      kd_weight: of the KL.
      top_k: K, at most the vocabulary.
    """

    INFO = Info(
        name="bucket_topk_kl",
        family="distillation",
        paper="LFM2 Technical Report",
        arxiv="2511.23404",
        certainty="the report's loss at tau = 1 (chain rule); a baseline",
    )

    def per_token(self, logits: Array, teacher: TopKRecord) -> Array:
        import jax.numpy as jnp

        from jaxpo.losses import bucket_topk_kl

        zero = jnp.zeros_like(teacher.log_odds)
        return bucket_topk_kl(logits, teacher.logps, zero, teacher.ids, log_odds=teacher.log_odds)


@dataclass(frozen=True)
class TruncatedTopK(TopKDistillation):
    """The naive tempered KL: teacher renormalised on K tokens, student on the whole vocabulary.

    Attributes:
      ce_weight: of the cross-entropy.
      kd_weight: of the KL.
      top_k: K, at most the vocabulary.
      tau: temperature of both distributions.
      tau_squared: multiply the KL by tau^2.
    """

    tau: float = number(2.0, above=0)
    tau_squared: bool = False

    INFO = Info(
        name="truncated_topk_kl",
        family="distillation",
        paper="LFM2 Technical Report",
        arxiv="2511.23404",
        certainty="the form that the report argues against: it is not zero at student = teacher; a baseline",
    )

    def per_token(self, logits: Array, teacher: TopKRecord) -> Array:
        from jaxpo.losses import truncated_topk_kl

        return truncated_topk_kl(logits, teacher.logps, teacher.ids, tau=self.tau, tau_squared=self.tau_squared)
