"""Uncertainty-enhanced preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from jaxpo.objectives.methods.base import PAIRS_AND_REFERENCE, Info, number
from jaxpo.objectives.methods.features import LikelihoodMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.families.pairs import Pair


@dataclass(frozen=True)
class UPO(LikelihoodMethod):
    """DPO against the last iterate with a smoothing of each pair's own, column `smoothing`, and a likelihood term.

    Attributes:
      beta: strength of the tie to the last iterate.
      nll_weight: of the negative log-likelihood per token of each chosen response.
    """

    beta: float = number(0.1, above=0)
    nll_weight: float = number(1.0, at_least=0)

    INFO = Info(
        name="upo",
        family="pairs",
        paper="Self-Evolutionary Large Language Models through Uncertainty-Enhanced Preference Optimization",
        arxiv="2409.11212",
        certainty="paper; the likelihood term's sign and divisor, and the scale of the smoothing, which the paper's "
        "formula turns against the labels, are mended",
    )
    NEEDS = replace(PAIRS_AND_REFERENCE, columns=("smoothing",))

    def loss(self, pair: Pair) -> Array:
        from jaxpo.losses import upo

        how = {"beta": self.beta, "nll_weight": self.nll_weight, "where": pair.present}
        return upo(*pair.logps, pair.columns["smoothing"], pair.chosen.length, **how)  # type: ignore[arg-type]
