"""DPO with a scaled reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxpo.objectives.methods.base import PAIRS, PAIRS_AND_REFERENCE, Info, number
from jaxpo.objectives.methods.features import PairMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.families.features import Side
    from jaxpo.objectives.families.pairs import Pair


@dataclass(frozen=True)
class DPOGamma(PairMethod):
    """DPO that keeps only a share of the reference's own preference, to trade closeness for ranking accuracy.

    Attributes:
      beta: strength of the tie to the reference.
      gamma: factor of the reference's log-ratio; 1 is DPO, 0 needs no reference.
    """

    beta: float = number(0.1, above=0)
    gamma: float = number(1.0, at_least=0)

    INFO = Info(
        name="dpo_gamma",
        family="pairs",
        paper="Preference Learning Algorithms Do Not Learn Preference Rankings",
        arxiv="2405.19534",
        certainty="paper, which sweeps gamma from 0 to 2 and singles none out",
    )
    NEEDS = PAIRS_AND_REFERENCE

    def __post_init__(self) -> None:
        if self.gamma == 0:
            object.__setattr__(self, "NEEDS", PAIRS)

    def loss(self, pair: Pair) -> Array:
        from jaxpo.losses import dpo_gamma

        return dpo_gamma(*pair.logps, beta=self.beta, gamma=self.gamma, where=pair.present)

    def reward(self, side: Side) -> Array:
        """`beta (P - gamma R)`, whose margin is what the loss sees."""
        return self.beta * (side.logps - self.gamma * side.ref_logps)
