"""Discovered preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxpo.objectives.methods.base import PAIRS_AND_REFERENCE, Info, number
from jaxpo.objectives.methods.features import PairMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.families.pairs import Pair


@dataclass(frozen=True)
class DiscoPOP(PairMethod):
    """Logistic loss for wrongly ordered pairs, exponential loss for rightly ordered ones.

    Attributes:
      beta: strength of the tie to the reference.
      discopop_tau: temperature of the blend between the two.
    """

    beta: float = number(0.05, above=0)
    discopop_tau: float = number(0.05, above=0, at_most=1)

    INFO = Info(
        name="discopop",
        family="pairs",
        paper="Discovering Preference Optimization Algorithms with and for Large Language Models",
        arxiv="2406.08414",
        certainty="Eq. 5; agrees with TRL and Liger, which overflow where ours is finite",
        aliases=("lrml",),
    )
    NEEDS = PAIRS_AND_REFERENCE

    def loss(self, pair: Pair) -> Array:
        from jaxpo.losses import discopop

        return discopop(*pair.logps, beta=self.beta, tau=self.discopop_tau, where=pair.present)
