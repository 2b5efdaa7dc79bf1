"""Noise contrastive alignment from pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxpo.objectives.methods.base import PAIRS_AND_REFERENCE, Info, number
from jaxpo.objectives.methods.features import PairMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.families.pairs import Pair


@dataclass(frozen=True)
class NCAPair(PairMethod):
    """The chosen reward is raised in absolute terms; both are held down as noise samples.

    Attributes:
      beta: strength of the tie to the reference.
    """

    beta: float = number(0.01, above=0)

    INFO = Info(
        name="nca_pair",
        family="pairs",
        paper="Noise Contrastive Alignment of Language Models with Explicit Rewards",
        arxiv="2402.05369",
        certainty="agrees with the authors' code, TRL and Liger",
    )
    NEEDS = PAIRS_AND_REFERENCE

    def loss(self, pair: Pair) -> Array:
        from jaxpo.losses import nca_pair

        return nca_pair(*pair.logps, beta=self.beta, where=pair.present)
