"""Simple preference optimisation."""

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
class SimPO(PairMethod):
    """Reference-free DPO on mean log-probs, with a target margin.

    Attributes:
      beta: reward scale.
      simpo_gamma: target reward margin.
      label_smoothing: probability that a label is flipped.
    """

    beta: float = number(2.0, above=0)
    simpo_gamma: float = number(0.5)
    label_smoothing: float = number(0.0, at_least=0, at_most=0.5)

    INFO = Info(
        name="simpo",
        family="pairs",
        paper="SimPO: Simple Preference Optimization with a Reference-Free Reward",
        arxiv="2405.14734",
        certainty="paper, Eq. 6; agrees with TRL",
    )
    NEEDS = PAIRS

    def loss(self, pair: Pair) -> Array:
        from jaxpo.losses import simpo

        return simpo(
            *pair.policy_logps,
            *pair.lengths,
            beta=self.beta,
            gamma=self.simpo_gamma,
            label_smoothing=self.label_smoothing,
            where=pair.present,
        )

    def reward(self, side: Side) -> Array:
        """`beta P / |y|`."""
        from jaxpo.losses.numerics import per_token

        return self.beta * per_token(side.logps, side.length)
