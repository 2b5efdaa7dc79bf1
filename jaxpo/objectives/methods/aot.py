"""Distributional preference alignment via optimal transport."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxpo.objectives.methods.base import PAIRS_AND_REFERENCE, Info, number
from jaxpo.objectives.methods.features import PairMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.families.pairs import Pair


@dataclass(frozen=True)
class AOT(PairMethod):
    """The policy's margins should dominate the reference's as distributions over the batch.

    Attributes:
      beta: strength of the tie to the reference.
      label_smoothing: probability that a label is flipped.
    """

    beta: float = number(0.01, above=0)
    label_smoothing: float = number(0.0, at_least=0, at_most=0.5)

    INFO = Info(
        name="aot",
        family="pairs, coupled",
        paper="Distributional Preference Alignment of LLMs via Optimal Transport",
        arxiv="2406.05882",
        certainty="agrees with TRL, which sorts inside one device's micro-batch, here over the whole step",
        aliases=("aot_paired",),
    )
    NEEDS = PAIRS_AND_REFERENCE
    COUPLED = True

    def loss(self, pair: Pair) -> Array:
        from jaxpo.losses import aot

        return aot(*pair.logps, beta=self.beta, label_smoothing=self.label_smoothing, where=pair.present)


@dataclass(frozen=True)
class AOTUnpaired(PairMethod):
    """The chosen responses' rewards should dominate the rejected ones' as distributions over the batch.

    Attributes:
      beta: strength of the tie to the reference.
      label_smoothing: probability that a label is flipped.
    """

    beta: float = number(0.01, above=0)
    label_smoothing: float = number(0.0, at_least=0, at_most=0.5)

    INFO = Info(
        name="aot_unpaired",
        family="pairs, coupled",
        paper="Distributional Preference Alignment of LLMs via Optimal Transport",
        arxiv="2406.05882",
        certainty="agrees with TRL, which sorts inside one device's micro-batch, here over the whole step; its "
        "former name there is aot_pair",
        aliases=("aot_pair",),
    )
    NEEDS = PAIRS_AND_REFERENCE
    COUPLED = True

    def loss(self, pair: Pair) -> Array:
        from jaxpo.losses import aot_unpaired

        return aot_unpaired(*pair.logps, beta=self.beta, label_smoothing=self.label_smoothing, where=pair.present)
