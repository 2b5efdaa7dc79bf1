"""Contrast with in-batch and hard negatives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.retrieval import RetrievalMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.families.retrieval import Vectors


@dataclass(frozen=True)
class InfoNCE(RetrievalMethod):
    """A query's document among all documents of the step, its own negatives and the other queries' documents.

    Attributes:
      temperature: of the scores: about 1 for late interaction, 0.05 for single vectors.
      false_negative_margin: of rows with a teacher's scores: a document of the query's own list is no negative where
        its score exceeds the positive's less this much, as it may answer the query too. None = all others are.
      pooling: "tokens" (late interaction), "mean", "cls" or "last".
      dimensions: of the vectors; None = the hidden states themselves.
      masked: what a row of a document that does not count is worth, "-inf" or "zero".
      widths_trained: further widths of the vectors (Matryoshka).
    """

    temperature: float = number(1.0, above=0)
    false_negative_margin: float | None = number(None, at_least=0)

    INFO = Info(
        name="info_nce",
        family="retrieval",
        paper="Representation Learning with Contrastive Predictive Coding",
        arxiv="1807.03748",
        certainty="agrees with pylate's Contrastive; its cached form's gradient is larger by the batch size",
        aliases=("contrastive", "multiple_negatives_ranking"),
    )
    COUPLED = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.false_negative_margin is not None:
            object.__setattr__(self, "NEEDS", replace(self.NEEDS, columns=("scores",)))

    def loss_at(self, x: Vectors) -> Array:
        from jaxpo.losses import info_nce
        from jaxpo.objectives.families.retrieval import batch_scores

        compared = batch_scores(x, self.masked, self.false_negative_margin)
        return info_nce(*compared, temperature=self.temperature)
