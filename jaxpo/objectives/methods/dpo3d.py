"""Flex-DPO and SFT-DPO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jaxpo.objectives.methods.base import PAIRS_AND_REFERENCE, Info, number
from jaxpo.objectives.methods.features import LikelihoodMethod

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.base import Metric
    from jaxpo.objectives.families.pairs import Pair


@dataclass(frozen=True)
class DPO3D(LikelihoodMethod):
    """DPO with a smaller beta on the rejected side, and optionally the likelihood of the chosen response.

    Attributes:
      beta_plus: scale of the chosen log-ratio.
      beta_minus: scale of the rejected log-ratio; equal to beta_plus it is DPO.
      sft_weight: weight of the chosen response's negative log-likelihood (the paper's lambda).
      sft_reduction: what it weighs: "sum" over each response's tokens, or "tokens", the mean per token of the step.
    """

    beta_plus: float = number(0.1, above=0)
    beta_minus: float = number(0.08, above=0)
    sft_weight: float = number(0.0, at_least=0)
    sft_reduction: Literal["sum", "tokens"] = "sum"

    INFO = Info(
        name="dpo3d",
        family="pairs",
        paper="3D-Properties: Identifying Challenges in DPO and Charting a Path Forward",
        arxiv="2406.07327",
        certainty="reconstructed: the paper describes both regularisers in words and gives no lambda",
        aliases=("flex_dpo",),
    )
    NEEDS = PAIRS_AND_REFERENCE
    METRICS = ("nll_loss", "flex/margins", "flex/accuracies")

    def loss(self, pair: Pair) -> dict[str, Array]:
        from jaxpo.losses import dpo3d

        prefer, sft = dpo3d(
            *pair.logps,
            beta_plus=self.beta_plus,
            beta_minus=self.beta_minus,
            sft_weight=self.sft_weight,
            where=pair.present,
        )
        return {"pairs": prefer + sft} if self.sft_reduction == "sum" else {"pairs": prefer, "chosen_tokens": sft}

    @property
    def beta(self) -> float:
        """`beta_plus`: scale of the logged rewards on both sides, as DPO's; the loss's margin is `flex/margins`."""
        return self.beta_plus

    def metrics(self, pair: Pair) -> dict[str, Metric]:
        """`nll_loss` per chosen token; mean and sign of the margin that the loss sees."""
        import jax.numpy as jnp

        from jaxpo.objectives.base import masked_mean

        margin = self.beta_plus * pair.chosen.log_ratio - self.beta_minus * pair.rejected.log_ratio
        return super().metrics(pair) | {
            "flex/margins": masked_mean(margin, pair.present),
            "flex/accuracies": masked_mean((margin > 0).astype(jnp.float32), pair.present),
        }
