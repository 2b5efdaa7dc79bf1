"""Direct preference optimisation under other divergences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jaxpo.objectives.methods.base import PAIRS_AND_REFERENCE, Info, number
from jaxpo.objectives.methods.features import PairMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.families.pairs import Pair


@dataclass(frozen=True)
class FDPO(PairMethod):
    """DPO whose tie to the reference is another f-divergence than the reverse KL.

    Attributes:
      beta: strength of the tie to the reference.
      f_divergence_type: the divergence; reverse_kl is DPO.
      alpha: of the alpha-divergence, as in the paper: towards 0 is reverse_kl, 1 is forward_kl. TRL's
        `f_alpha_divergence_coef` is 1 - alpha.
    """

    beta: float = number(0.1, above=0)
    f_divergence_type: Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"] = "js_divergence"
    alpha: float = number(0.5, above=0, at_most=1)

    INFO = Info(
        name="fdpo",
        family="pairs",
        paper="Beyond Reverse KL: Generalizing Direct Preference Optimization with Diverse Divergence Constraints",
        arxiv="2309.16240",
        certainty="the paper's divergences; agrees with TRL, whose alpha is 1 minus the paper's (default: reverse_kl)",
        aliases=("f_dpo",),
    )
    NEEDS = PAIRS_AND_REFERENCE

    def loss(self, pair: Pair) -> Array:
        from jaxpo.losses import fdpo

        return fdpo(
            *pair.logps, beta=self.beta, divergence=self.f_divergence_type, alpha=self.alpha, where=pair.present
        )
