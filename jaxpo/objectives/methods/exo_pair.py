"""Efficient exact optimisation from pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxpo.objectives.methods.base import PAIRS_AND_REFERENCE, Info, number
from jaxpo.objectives.methods.features import PairMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.families.pairs import Pair


@dataclass(frozen=True)
class EXOPair(PairMethod):
    """Reverse KL from the policy's preference to the smoothed label.

    Attributes:
      beta: strength of the tie to the reference.
      label_smoothing: probability that a label is flipped; it sets the margin that is aimed at.
    """

    beta: float = number(0.1, above=0)
    label_smoothing: float = number(1e-3, above=0, at_most=0.5)

    INFO = Info(
        name="exo_pair",
        family="pairs",
        paper="Towards Efficient Exact Optimization of Language Model Alignment",
        arxiv="2402.00856",
        certainty="Eq. 16; agrees with the authors' code, TRL and Liger",
        aliases=("exo_pref",),
    )
    NEEDS = PAIRS_AND_REFERENCE

    def loss(self, pair: Pair) -> Array:
        from jaxpo.losses import exo_pair

        return exo_pair(*pair.logps, beta=self.beta, label_smoothing=self.label_smoothing, where=pair.present)
