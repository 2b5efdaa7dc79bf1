"""Binary classifier optimisation on pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxpo.objectives.methods.base import PAIRS_AND_REFERENCE, Info, number
from jaxpo.objectives.methods.features import PairMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.families.pairs import Pair


@dataclass(frozen=True)
class BCOPair(PairMethod):
    """Good against bad as a binary classifier whose logit is the implicit reward, without a shift.

    Attributes:
      beta: strength of the tie to the reference.
    """

    beta: float = number(0.1, above=0)

    INFO = Info(
        name="bco_pair",
        family="pairs",
        paper="Binary Classifier Optimization for Large Language Model Alignment",
        arxiv="2404.04656",
        certainty="the paper's loss at shift 0, as TRL 1.16 and Liger; earlier TRL had a running shift (`bco` here)",
    )
    NEEDS = PAIRS_AND_REFERENCE

    def loss(self, pair: Pair) -> Array:
        from jaxpo.losses import bco_pair

        return bco_pair(*pair.logps, beta=self.beta, where=pair.present)
