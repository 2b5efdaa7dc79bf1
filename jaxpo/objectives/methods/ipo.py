"""Identity preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxpo.objectives.methods.base import PAIRS_AND_REFERENCE, Info, number
from jaxpo.objectives.methods.features import PairMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.families.pairs import Pair


@dataclass(frozen=True)
class IPO(PairMethod):
    """The difference of mean log-ratios is drawn to 1 / (2 beta).

    The `ipo` of TRL's CPOTrainer has no reference: it is `tpo_triple` with variant ipo, the chosen response as
    `gold` and cpo_alpha as tpo_alpha.

    Attributes:
      beta: tau of the paper, strength of the tie to the reference.
    """

    beta: float = number(0.1, above=0)

    INFO = Info(
        name="ipo",
        family="pairs",
        paper="A General Theoretical Paradigm to Understand Learning from Human Preferences",
        arxiv="2310.12036",
        certainty="Eq. 17 on means, as TRL's DPOTrainer on the authors' word; the paper writes sums (`ipo_sum`); "
        "CPOTrainer's has no reference: tpo_triple, variant ipo",
        aliases=("ipo_mean", "ipo_per_token"),
    )
    NEEDS = PAIRS_AND_REFERENCE

    def loss(self, pair: Pair) -> Array:
        from jaxpo.losses import ipo

        return ipo(*pair.logps, *pair.lengths, beta=self.beta, where=pair.present)


@dataclass(frozen=True)
class IPOSum(PairMethod):
    """The difference of summed log-ratios is drawn to 1 / (2 beta).

    Attributes:
      beta: tau of the paper, strength of the tie to the reference.
    """

    beta: float = number(0.1, above=0)

    INFO = Info(
        name="ipo_sum",
        family="pairs",
        paper="A General Theoretical Paradigm to Understand Learning from Human Preferences",
        arxiv="2310.12036",
        certainty="Eq. 17 as the paper writes it and turbo-alignment has it; TRL divides by lengths (`ipo`)",
    )
    NEEDS = PAIRS_AND_REFERENCE

    def loss(self, pair: Pair) -> Array:
        from jaxpo.losses import ipo_sum

        return ipo_sum(*pair.logps, beta=self.beta, where=pair.present)
