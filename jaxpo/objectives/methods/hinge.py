"""Hinge loss on normalised likelihoods, of RSO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxpo.objectives.methods.base import PAIRS_AND_REFERENCE, Info, number
from jaxpo.objectives.methods.features import PairMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.families.pairs import Pair


@dataclass(frozen=True)
class Hinge(PairMethod):
    """A margin of 1 on scaled log-ratios; pairs beyond it give no gradient.

    The `hinge` of TRL's CPOTrainer has no reference: it is `tpo_triple` with variant hinge, the chosen response as
    `gold` and cpo_alpha as tpo_alpha.

    Attributes:
      beta: strength of the tie to the reference, the paper's gamma. TRL's default is 0.1.
    """

    beta: float = number(0.05, above=0)

    INFO = Info(
        name="hinge",
        family="pairs",
        paper="Statistical Rejection Sampling Improves Preference Optimization",
        arxiv="2309.06657",
        certainty="the paper's hinge-norm; agrees with TRL's DPOTrainer and Liger, which cite SLiC for it; "
        "CPOTrainer's has no reference: tpo_triple, variant hinge",
        aliases=("slic_norm",),
    )
    NEEDS = PAIRS_AND_REFERENCE

    def loss(self, pair: Pair) -> Array:
        from jaxpo.losses import hinge

        return hinge(*pair.logps, beta=self.beta, where=pair.present)
