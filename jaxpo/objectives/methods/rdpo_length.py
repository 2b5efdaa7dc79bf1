"""Length-regularised direct preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxpo.objectives.methods.base import PAIRS_AND_REFERENCE, Info, number
from jaxpo.objectives.methods.features import PairMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.families.pairs import Pair


@dataclass(frozen=True)
class RDPOLength(PairMethod):
    """DPO for a reward from which `alpha` per token is taken off.

    Attributes:
      beta: strength of the tie to the reference.
      alpha: price of a token, in units of reward.
    """

    beta: float = number(0.1, above=0)
    alpha: float = number(0.05, at_least=0)

    INFO = Info(
        name="rdpo_length",
        family="pairs",
        paper="Disentangling Length from Quality in Direct Preference Optimization",
        arxiv="2403.19159",
        certainty="derived from reward - alpha |y|, which gives the sign; one public implementation has it reversed",
        aliases=("length_regularized_dpo",),
    )
    NEEDS = PAIRS_AND_REFERENCE

    def loss(self, pair: Pair) -> Array:
        from jaxpo.losses import rdpo_length

        return rdpo_length(*pair.logps, *pair.lengths, beta=self.beta, alpha=self.alpha, where=pair.present)
