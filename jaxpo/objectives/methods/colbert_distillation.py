"""Distillation of teacher scores into a retriever."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.retrieval import QUERY_AND_DOCUMENTS, RetrievalMethod

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jax import Array

    from jaxpo.objectives.families.retrieval import Vectors

SCORED_DOCUMENTS = replace(QUERY_AND_DOCUMENTS, columns=("scores",))


@dataclass(frozen=True)
class ColBERTDistillation(RetrievalMethod):
    """The retriever's scores of a query's documents should have the teacher's distribution (LFM2-ColBERT's training).

    Attributes:
      normalize: bring the student's scores to [0, 1] within each list, which needs three documents or more.
      temperature: of the student's distribution.
      teacher_temperature: of the teacher's.
      pooling: "tokens" (late interaction), "mean", "cls" or "last".
      dimensions: of the vectors; None = the hidden states themselves.
      masked: what a row of a document that does not count is worth, "-inf" or "zero".
      widths_trained: further widths of the vectors (Matryoshka).
    """

    normalize: bool = True
    temperature: float = number(1.0, above=0)
    teacher_temperature: float = number(1.0, above=0)

    INFO = Info(
        name="colbert_distillation",
        family="retrieval",
        paper="LFM2 Technical Report",
        arxiv="2511.23404",
        certainty="agrees with pylate, value and gradient; the settings of LFM2-ColBERT are not published",
    )
    NEEDS = SCORED_DOCUMENTS

    def check_columns(self, columns: Mapping[str, Any]) -> list[str]:
        """Normalised, two documents give 0 and 1 whatever their scores are: nothing would be learnt."""
        import numpy as np

        scores = np.asarray(columns.get("scores", ()), np.float64)
        if not self.normalize or scores.ndim != 2 or not len(scores):
            return []
        least = int((~np.isnan(scores)).sum(axis=1).min())
        if least >= 3:
            return []
        return [
            f"colbert_distillation: a query has {least} document(s); with normalize their scores become 0 and 1 "
            "whatever they are, and the gradient is 0. Give three documents or more, or set normalize to False."
        ]

    def loss_at(self, x: Vectors) -> Array:
        from jaxpo.losses import colbert_distillation
        from jaxpo.objectives.families.retrieval import own_scores

        return colbert_distillation(
            own_scores(x, self.masked),
            x.columns["scores"],
            x.listed & x.present[:, None],
            normalize=self.normalize,
            temperature=self.temperature,
            teacher_temperature=self.teacher_temperature,
        )
