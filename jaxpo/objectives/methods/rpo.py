"""Regularised preference optimisation: DPO plus the likelihood of the chosen response, in three reductions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from jaxpo.objectives.methods.base import PAIRS_AND_REFERENCE, Info, number
from jaxpo.objectives.methods.features import LikelihoodMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.families.pairs import Pair

PAPER = "Provably Mitigating Overoptimization in RLHF: Your SFT Loss is Implicitly an Adversarial Regularizer"


@dataclass(frozen=True)
class RPO(LikelihoodMethod):
    """DPO plus `-eta beta P_w` of each pair: the paper's main text.

    Attributes:
      beta: strength of the tie to the reference (0.05 for the paper's Gemma).
      eta: weight of the likelihood term, which beta multiplies too.
    """

    beta: float = number(0.01, above=0)
    eta: float = number(0.005, at_least=0)

    VARIANT: ClassVar[Literal["sum", "average", "tokens"]] = "sum"
    INFO = Info(
        name="rpo",
        family="pairs",
        paper=PAPER,
        arxiv="2405.16436",
        certainty="authors' code; rpo_average and rpo_tokens reduce the likelihood otherwise, with other scales of eta",
    )
    NEEDS = PAIRS_AND_REFERENCE

    def loss(self, pair: Pair) -> dict[str, Array]:
        from jaxpo.losses import rpo

        prefer, sft = rpo(
            *pair.logps, pair.chosen.length, beta=self.beta, eta=self.eta, variant=self.VARIANT, where=pair.present
        )
        return {"pairs": prefer, "chosen_tokens": sft} if self.VARIANT == "tokens" else {"pairs": prefer + sft}


@dataclass(frozen=True)
class RPOAverage(RPO):
    """DPO plus `-eta P_w / |y_w|` of each pair: the paper's appendix F, and the authors' preferred setting.

    Attributes:
      beta: strength of the tie to the reference.
      eta: weight of the likelihood per token; beta does not multiply it.
    """

    beta: float = number(0.5, above=0)
    eta: float = number(0.2, at_least=0)

    VARIANT = "average"
    INFO = Info(
        name="rpo_average",
        function="jaxpo.losses.rpo",
        family="pairs",
        paper=PAPER,
        arxiv="2405.16436",
        certainty="authors' code",
    )


@dataclass(frozen=True)
class RPOTokens(RPO):
    """DPO plus the negative log-likelihood per chosen token of the step: TRL's `loss_type=["sigmoid", "sft"]`.

    Attributes:
      beta: strength of the tie to the reference.
      eta: weight of the likelihood per token, the second of TRL's `loss_weights`.
    """

    beta: float = number(0.1, above=0)
    eta: float = number(1.0, at_least=0)

    VARIANT = "tokens"
    INFO = Info(
        name="rpo_tokens",
        function="jaxpo.losses.rpo",
        family="pairs",
        paper=PAPER,
        arxiv="2405.16436",
        certainty="agrees with TRL, whose mean is over a micro-batch, here over the step; defaults are TRL's",
        aliases=("sigmoid_sft",),
    )
