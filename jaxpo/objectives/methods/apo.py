"""Anchored preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxpo.objectives.methods.base import PAIRS_AND_REFERENCE, Info, number
from jaxpo.objectives.methods.features import PairMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.families.pairs import Pair


@dataclass(frozen=True)
class APOZero(PairMethod):
    """Raise the chosen response and lower the rejected one, each by itself.

    Attributes:
      beta: strength of the tie to the reference.
    """

    beta: float = number(0.1, above=0)

    INFO = Info(
        name="apo_zero",
        family="pairs",
        paper="Anchored Preference Optimization and Contrastive Revisions: Addressing Underspecification in Alignment",
        arxiv="2408.06266",
        certainty="Eq. 7; agrees with TRL and Liger",
    )
    NEEDS = PAIRS_AND_REFERENCE

    def loss(self, pair: Pair) -> Array:
        from jaxpo.losses import apo_zero

        return apo_zero(*pair.logps, beta=self.beta, where=pair.present)


@dataclass(frozen=True)
class APODown(PairMethod):
    """Lower both responses, the rejected one more.

    Attributes:
      beta: strength of the tie to the reference.
    """

    beta: float = number(0.1, above=0)

    INFO = Info(
        name="apo_down",
        family="pairs",
        paper="Anchored Preference Optimization and Contrastive Revisions: Addressing Underspecification in Alignment",
        arxiv="2408.06266",
        certainty="Eq. 8; agrees with TRL and Liger",
    )
    NEEDS = PAIRS_AND_REFERENCE

    def loss(self, pair: Pair) -> Array:
        from jaxpo.losses import apo_down

        return apo_down(*pair.logps, beta=self.beta, where=pair.present)
