"""Statistical rejection sampling optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jaxpo.objectives.methods.base import PAIRS_AND_REFERENCE, Info, number
from jaxpo.objectives.methods.features import PairMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.families.pairs import Pair


@dataclass(frozen=True)
class RSO(PairMethod):
    """DPO's or SLiC's loss on log-ratios to the SFT policy, for pairs made by `jaxpo data construct rso`.

    Attributes:
      loss_type: "sigmoid" is sigmoid-norm (DPO), "hinge" is hinge-norm.
      beta: strength of the tie to the SFT policy: the paper's gamma, not its sampler's beta.
    """

    loss_type: Literal["sigmoid", "hinge"] = "sigmoid"
    beta: float = number(0.05, above=0)

    INFO = Info(
        name="rso",
        family="pairs",
        paper="Statistical Rejection Sampling Improves Preference Optimization",
        arxiv="2309.06657",
        certainty="sampler as in public re-implementations, which agree; losses as in TRL; gamma from memory",
    )
    NEEDS = PAIRS_AND_REFERENCE

    def loss(self, pair: Pair) -> Array:
        from jaxpo.losses import rso

        return rso(*pair.logps, gamma=self.beta, margin=self.loss_type == "hinge", where=pair.present)
