"""Contrastive preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxpo.objectives.methods.base import PAIRS, Info, number
from jaxpo.objectives.methods.features import LikelihoodMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.families.pairs import Pair


@dataclass(frozen=True)
class CPO(LikelihoodMethod):
    """Reference-free DPO plus the likelihood of the chosen response.

    Attributes:
      beta: reward scale.
      cpo_alpha: weight of the negative log-likelihood per chosen token.
      label_smoothing: probability that a label is flipped.
    """

    beta: float = number(0.1, above=0)
    cpo_alpha: float = number(1.0, at_least=0)
    label_smoothing: float = number(0.0, at_least=0, at_most=0.5)

    INFO = Info(
        name="cpo",
        family="pairs",
        paper="Contrastive Preference Optimization: Pushing the Boundaries of LLM Performance in Machine Translation",
        arxiv="2401.08417",
        certainty="agrees with TRL, whose likelihood term is averaged over a micro-batch, here over the step",
    )
    NEEDS = PAIRS

    def loss(self, pair: Pair) -> dict[str, Array]:
        from jaxpo.losses import cpo

        prefer, nll = cpo(
            *pair.policy_logps,
            beta=self.beta,
            alpha=self.cpo_alpha,
            label_smoothing=self.label_smoothing,
            where=pair.present,
        )
        return {"pairs": prefer, "chosen_tokens": nll}
