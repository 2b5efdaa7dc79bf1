"""Length-desensitised direct preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxpo.objectives.methods.base import PAIRS_AND_REFERENCE, Info, number
from jaxpo.objectives.methods.features import PairMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.families.pairs import Pair


@dataclass(frozen=True)
class LDDPO(PairMethod):
    """DPO in which the tokens beyond the shorter response's length count `ld_alpha`.

    Attributes:
      beta: strength of the tie to the reference.
      ld_alpha: weight of the tail; 1 is DPO.
      weight_reference: weight the reference's tail as well; False leaves it whole.
    """

    beta: float = number(0.1, above=0)
    ld_alpha: float = number(0.5, at_least=0, at_most=1)
    weight_reference: bool = True

    INFO = Info(
        name="lddpo",
        family="pairs",
        paper="Length Desensitization in Direct Preference Optimization",
        arxiv="2409.06411",
        certainty="two re-implementations; they differ in whether the reference's tail is weighted: TRL does",
        aliases=("ld_dpo",),
    )
    NEEDS = PAIRS_AND_REFERENCE
    TOKENS = True

    def loss(self, pair: Pair) -> Array:
        from jaxpo.losses import lddpo

        return lddpo(
            *pair.token_logps,
            *pair.token_masks,
            beta=self.beta,
            alpha=self.ld_alpha,
            weight_reference=self.weight_reference,
            where=pair.present,
        )
