"""Joint preference optimisation over instruction-response pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxpo.objectives.methods.base import PAIRS_AND_REFERENCE, Info, number
from jaxpo.objectives.methods.features import PairMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.families.features import Side
    from jaxpo.objectives.families.pairs import Pair


@dataclass(frozen=True)
class DOVE(PairMethod):
    """DPO on the joint probability of instruction and response; the two sides may have different instructions.

    Attributes:
      beta: strength of the tie to the reference.
      joint: score the instruction's tokens too; False is DPO across prompts.
    """

    beta: float = number(0.1, above=0)
    joint: bool = True

    INFO = Info(
        name="dove",
        family="pairs",
        paper="Comparing Bad Apples to Good Oranges: Aligning Large Language Models via Joint Preference Optimization",
        arxiv="2404.00530",
        certainty="authors' code, with its joint flag on",
    )
    NEEDS = PAIRS_AND_REFERENCE
    TOKENS = True

    def loss(self, pair: Pair) -> Array:
        from jaxpo.losses import dove

        masks = (*pair.token_masks, *pair.prompt_masks)
        return dove(*pair.token_logps, *masks, beta=self.beta, joint=self.joint, where=pair.present)

    def reward(self, side: Side) -> Array:
        """`beta (P - R)` of what is scored: instruction and response in joint mode."""
        from jaxpo.losses.numerics import masked_sum

        ratio = side.log_ratio
        if self.joint:
            ratio = ratio + masked_sum(side.tokens.logps - side.tokens.ref_logps, side.tokens.prompt)
        return self.beta * ratio
