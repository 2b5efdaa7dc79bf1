"""Length-normalised direct preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxpo.objectives.methods.base import PAIRS_AND_REFERENCE, Info, number
from jaxpo.objectives.methods.features import PairMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.families.pairs import Pair


@dataclass(frozen=True)
class LNDPO(PairMethod):
    """DPO on log-ratios per token: the same function as `sigmoid_norm`, with its paper's beta.

    Attributes:
      beta: scale of the reward per token (1 to 10, far more than DPO's).
    """

    beta: float = number(2.0, above=0)

    INFO = Info(
        name="lndpo",
        family="pairs",
        paper="A Practical Analysis of Human Alignment with *PO",
        arxiv="2407.15229",
        certainty="abstract and TRL's identical formula; the paper's grid for beta, about 1 to 3.5, is from memory",
        aliases=("ln_dpo",),
    )
    NEEDS = PAIRS_AND_REFERENCE

    def loss(self, pair: Pair) -> Array:
        from jaxpo.losses import lndpo

        return lndpo(*pair.logps, *pair.lengths, beta=self.beta, where=pair.present)
