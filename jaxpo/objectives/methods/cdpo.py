"""Conservative direct preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxpo.objectives.methods.base import PAIRS_AND_REFERENCE, Info, PairMethod, number

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.families.pairs import Pair


@dataclass(frozen=True)
class CDPO(PairMethod):
    """DPO with smoothed labels.

    Attributes:
      beta: strength of the tie to the reference.
      label_smoothing: probability that a label is flipped; 0 is DPO.
    """

    beta: float = number(0.1, above=0)
    label_smoothing: float = number(0.1, at_least=0, at_most=0.5)

    INFO = Info(
        name="cdpo",
        function="jaxpo.losses.dpo",
        family="pairs",
        paper="A note on DPO with noisy preferences & relationship to IPO",
        arxiv="",
        certainty="the note's formula, as in OpenRLHF; the `sigmoid` of TRL 1.16 and of Liger ignores label_smoothing",
        aliases=("conservative_dpo",),
    )
    NEEDS = PAIRS_AND_REFERENCE

    def loss(self, pair: Pair) -> Array:
        from jaxpo.losses import dpo

        return dpo(*pair.logps, beta=self.beta, label_smoothing=self.label_smoothing, where=pair.present)
