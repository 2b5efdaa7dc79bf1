"""SimPO with a bent reward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxpo.objectives.methods.base import PAIRS, Info, number
from jaxpo.objectives.methods.features import PairMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.families.features import Side
    from jaxpo.objectives.families.pairs import Pair


@dataclass(frozen=True)
class AlphaPO(PairMethod):
    """SimPO whose mean log-prob a is replaced by (1 - e^(-alpha a)) / alpha.

    Attributes:
      alpha: shape of the reward; 0 is SimPO.
      beta: reward scale.
      simpo_gamma: target reward margin.
      label_smoothing: probability that a label is flipped.
    """

    alpha: float = number(0.25)
    beta: float = number(2.5, above=0)
    simpo_gamma: float = number(0.1)
    label_smoothing: float = number(0.0, at_least=0, at_most=0.5)

    INFO = Info(
        name="alphapo",
        family="pairs",
        paper="AlphaPO: Reward Shape Matters for LLM Alignment",
        arxiv="2501.03884",
        certainty="agrees with TRL, which underflows for unlikely responses; defaults are the paper's for Mistral-7B",
        aliases=("alpha_po",),
    )
    NEEDS = PAIRS

    def loss(self, pair: Pair) -> Array:
        from jaxpo.losses import alphapo

        return alphapo(
            *pair.policy_logps,
            *pair.lengths,
            alpha=self.alpha,
            beta=self.beta,
            gamma=self.simpo_gamma,
            label_smoothing=self.label_smoothing,
            where=pair.present,
        )

    def reward(self, side: Side) -> Array:
        """`beta (1 - e^(-alpha P / |y|)) / alpha`."""
        from jaxpo.losses.fdpo import deformed_log
        from jaxpo.losses.numerics import per_token

        return self.beta * deformed_log(per_token(side.logps, side.length), self.alpha)
