"""Direct preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxpo.objectives.methods.base import PAIRS_AND_REFERENCE, Info, number
from jaxpo.objectives.methods.features import PairMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.families.pairs import Pair


@dataclass(frozen=True)
class DPO(PairMethod):
    """Direct preference optimisation.

    Attributes:
      beta: strength of the tie to the reference.
      label_smoothing: probability that a label is flipped.
    """

    beta: float = number(0.1, above=0)
    label_smoothing: float = number(0.0, at_least=0, at_most=0.5)

    INFO = Info(
        name="dpo",
        family="pairs",
        paper="Direct Preference Optimization: Your Language Model is Secretly a Reward Model",
        arxiv="2305.18290",
        certainty="paper, Eq. 7; agrees with TRL",
        aliases=("sigmoid",),
    )
    NEEDS = PAIRS_AND_REFERENCE

    def loss(self, pair: Pair) -> Array:
        from jaxpo.losses import dpo

        return dpo(*pair.logps, beta=self.beta, label_smoothing=self.label_smoothing, where=pair.present)
