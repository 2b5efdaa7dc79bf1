"""Fine-tuning on the chosen responses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxpo.objectives.methods.base import PAIRS, Info
from jaxpo.objectives.methods.features import LikelihoodMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.families.pairs import Pair


@dataclass(frozen=True)
class SFT(LikelihoodMethod):
    """Maximum likelihood of the chosen responses alone: the yardstick of the others."""

    INFO = Info(
        name="sft",
        family="pairs",
        paper="maximum likelihood",
        arxiv="",
        certainty="agrees with TRL, which averages over a micro-batch, here over the step",
    )
    NEEDS = PAIRS

    def loss(self, pair: Pair) -> dict[str, Array]:
        from jaxpo.losses import sft

        return {"chosen_tokens": sft(pair.chosen.logps, where=pair.present)}
