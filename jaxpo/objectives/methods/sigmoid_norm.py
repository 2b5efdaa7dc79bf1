"""Length-normalised DPO of the LFM2 report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxpo.objectives.methods.base import PAIRS_AND_REFERENCE, Info, number
from jaxpo.objectives.methods.features import PairMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.families.pairs import Pair


@dataclass(frozen=True)
class SigmoidNorm(PairMethod):
    """DPO on rewards per token, as in the LFM2 report.

    Attributes:
      beta: scale of the reward per token; 5 acts like 5/n in plain DPO on responses of n tokens.
    """

    beta: float = number(5.0, above=0)

    INFO = Info(
        name="sigmoid_norm",
        family="pairs",
        paper="LFM2 Technical Report",
        arxiv="2511.23404",
        certainty="report's symbols and beta; which member of its family each model used is not published",
        aliases=("lfm2", "dpo_norm"),
    )
    NEEDS = PAIRS_AND_REFERENCE

    def loss(self, pair: Pair) -> Array:
        from jaxpo.losses import sigmoid_norm

        return sigmoid_norm(*pair.logps, *pair.lengths, beta=self.beta, where=pair.present)
