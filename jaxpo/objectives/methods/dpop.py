"""DPO-positive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxpo.objectives.methods.base import PAIRS_AND_REFERENCE, Info, number
from jaxpo.objectives.methods.features import PairMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.base import Metric
    from jaxpo.objectives.families.pairs import Pair


@dataclass(frozen=True)
class DPOP(PairMethod):
    """DPO that fines a chosen response for becoming less likely than under the reference.

    Attributes:
      beta: strength of the tie to the reference.
      dpop_lambda: weight of the fine; 0 is DPO.
    """

    beta: float = number(0.3, above=0)
    dpop_lambda: float = number(50.0, at_least=0)

    INFO = Info(
        name="dpop",
        family="pairs",
        paper="Smaug: Fixing Failure Modes of Preference Optimisation with DPO-Positive",
        arxiv="2402.13228",
        certainty="paper, cross-checked with public implementations",
        aliases=("dpo_positive", "smaug"),
    )
    NEEDS = PAIRS_AND_REFERENCE
    METRICS = ("penalised",)

    def loss(self, pair: Pair) -> Array:
        from jaxpo.losses import dpop

        return dpop(*pair.logps, beta=self.beta, lam=self.dpop_lambda, where=pair.present)

    def metrics(self, pair: Pair) -> dict[str, Metric]:
        """`penalised`: share of pairs whose chosen response is less likely than under the reference."""
        from jaxpo.objectives.base import masked_mean

        return {"penalised": masked_mean((pair.chosen.log_ratio < 0).astype("float32"), pair.present)}
