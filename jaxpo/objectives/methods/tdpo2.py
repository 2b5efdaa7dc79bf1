"""Token-level direct preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.tdpo1 import TDPO1

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.families.pairs import Pair


@dataclass(frozen=True)
class TDPO2(TDPO1):
    """DPO with the difference of the two sides' sequential KL divergences.

    Attributes:
      beta: strength of the tie to the reference.
      alpha: weight of the KL difference.
    """

    alpha: float = number(0.5, at_least=0)

    INFO = Info(
        name="tdpo2",
        family="pairs",
        paper="Token-level Direct Preference Optimization",
        arxiv="2404.11999",
        certainty="authors' code",
    )

    def loss(self, pair: Pair) -> Array:
        from jaxpo.losses import tdpo2

        return tdpo2(*pair.logps, *pair.kls, beta=self.beta, alpha=self.alpha, where=pair.present)
