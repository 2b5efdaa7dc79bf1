"""Graded pairs of texts for embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.colbert_distillation import SCORED_DOCUMENTS
from jaxpo.objectives.methods.retrieval import RetrievalMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.families.retrieval import Vectors


@dataclass(frozen=True)
class CoSENT(RetrievalMethod):
    """Every two pairs of texts of a step whose grades differ should have cosines in that order.

    Attributes:
      scale: inverse temperature of the cosines.
      pooling: "tokens" (late interaction), "mean", "cls" or "last".
      dimensions: of the vectors; None = the hidden states themselves.
      masked: what a row of a document that does not count is worth, "-inf" or "zero".
      widths_trained: further widths of the vectors (Matryoshka).
    """

    scale: float = number(20.0, above=0)

    INFO = Info(
        name="cosent",
        family="retrieval",
        paper="CoSENT: a more efficient sentence vector scheme",
        arxiv="",
        certainty="agrees with sentence-transformers' CoSENTLoss over a batch",
    )
    NEEDS = SCORED_DOCUMENTS
    COUPLED = True

    def loss_at(self, x: Vectors) -> Array:
        """The step's one number, in the place of every query."""
        import jax.numpy as jnp

        from jaxpo.losses import cosent
        from jaxpo.objectives.families.retrieval import own_scores

        where = x.listed & x.present[:, None]
        flat = (own_scores(x, self.masked), x.columns["scores"], where)
        loss = cosent(*(array.reshape(1, -1) for array in flat), scale=self.scale)
        return jnp.where(x.present, loss[0], 0.0)
