"""Self-play preference optimisation with hard win probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxpo.objectives.methods.base import PAIRS_AND_REFERENCE, Info, number
from jaxpo.objectives.methods.features import PairMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.families.pairs import Pair


@dataclass(frozen=True)
class SPPOHard(PairMethod):
    """Each log-ratio is drawn to its own target, +-1 / (2 beta).

    Attributes:
      beta: 1 / eta of the paper.
    """

    beta: float = number(0.001, above=0)

    INFO = Info(
        name="sppo_hard",
        family="pairs",
        paper="Self-Play Preference Optimization for Language Model Alignment",
        arxiv="2405.00675",
        certainty="Eq. 4.7 with win probabilities 1 and 0; agrees with TRL and Liger",
    )
    NEEDS = PAIRS_AND_REFERENCE

    def loss(self, pair: Pair) -> Array:
        from jaxpo.losses import sppo_hard

        return sppo_hard(*pair.logps, beta=self.beta, where=pair.present)
