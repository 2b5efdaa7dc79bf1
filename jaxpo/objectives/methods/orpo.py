"""Odds ratio preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxpo.objectives.methods.base import PAIRS, Info, number
from jaxpo.objectives.methods.features import LikelihoodMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.base import Metric
    from jaxpo.objectives.families.features import Side
    from jaxpo.objectives.families.pairs import Pair


@dataclass(frozen=True)
class ORPO(LikelihoodMethod):
    """Fine-tuning on the chosen response plus the logistic loss of the log odds ratio. No reference model.

    Attributes:
      beta: weight of the odds ratio, the paper's lambda.
    """

    beta: float = number(0.1, at_least=0)

    INFO = Info(
        name="orpo",
        family="pairs",
        paper="ORPO: Monolithic Preference Optimization without Reference Model",
        arxiv="2403.07691",
        certainty="Eq. 6 and 7; the likelihood is the response's, as in the paper: TRL takes prompt and response",
    )
    NEEDS = PAIRS
    METRICS = ("log_odds_chosen", "log_odds_ratio", "nll_loss")

    def loss(self, pair: Pair) -> dict[str, Array]:
        from jaxpo.losses import orpo

        odds, nll = orpo(*pair.policy_logps, *pair.lengths, beta=self.beta, where=pair.present)
        return {"pairs": odds, "chosen_tokens": nll}

    def reward(self, side: Side) -> Array:
        """`beta P / |y|`."""
        from jaxpo.losses.numerics import per_token

        return self.beta * per_token(side.logps, side.length)

    def metrics(self, pair: Pair) -> dict[str, Metric]:
        """`nll_loss` per chosen token; `log_odds_chosen`, the log odds ratio; `log_odds_ratio`, its log sigmoid."""
        from jaxpo.losses.numerics import per_token, softplus
        from jaxpo.losses.orpo import log_odds
        from jaxpo.objectives.base import masked_mean

        chosen, rejected = (log_odds(per_token(s.logps, s.length)) for s in (pair.chosen, pair.rejected))
        return super().metrics(pair) | {
            "log_odds_chosen": masked_mean(chosen - rejected, pair.present),
            "log_odds_ratio": masked_mean(-softplus(rejected - chosen), pair.present),
        }
