"""Distillation of score margins into a retriever."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxpo.objectives.methods.base import Info
from jaxpo.objectives.methods.colbert_distillation import SCORED_DOCUMENTS
from jaxpo.objectives.methods.retrieval import RetrievalMethod

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jax import Array

    from jaxpo.objectives.families.retrieval import Vectors


@dataclass(frozen=True)
class MarginMSE(RetrievalMethod):
    """The first document's scores should lie above the others' by as much as the teacher's do.

    Attributes:
      pooling: "tokens" (late interaction), "mean", "cls" or "last".
      dimensions: of the vectors; None = the hidden states themselves.
      masked: what a row of a document that does not count is worth, "-inf" or "zero".
      widths_trained: further widths of the vectors (Matryoshka).
    """

    INFO = Info(
        name="margin_mse",
        family="retrieval",
        paper="Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge Distillation",
        arxiv="2010.02666",
        certainty="agrees with sentence-transformers for lists of one length",
    )
    NEEDS = SCORED_DOCUMENTS

    def check_columns(self, columns: Mapping[str, Any]) -> list[str]:
        """A margin is between two documents."""
        import numpy as np

        scores = np.asarray(columns.get("scores", ()), np.float64)
        if scores.ndim != 2 or not len(scores) or (~np.isnan(scores)).sum(axis=1).min() >= 2:
            return []
        return ["margin_mse: a query has one document alone; give two or more."]

    def loss_at(self, x: Vectors) -> Array:
        from jaxpo.losses import margin_mse
        from jaxpo.objectives.families.retrieval import own_scores

        return margin_mse(own_scores(x, self.masked), x.columns["scores"], x.listed & x.present[:, None])
