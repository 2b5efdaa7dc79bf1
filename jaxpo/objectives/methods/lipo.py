"""Listwise preference optimisation through learning to rank."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from jaxpo.data.needs import Needs
from jaxpo.objectives.methods.base import Info, ListMethod, number

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jax import Array

    from jaxpo.objectives.preference_lists import Ranked


@dataclass(frozen=True)
class LiPO(ListMethod):
    """Pairwise logistic loss over a list, each pair weighted by the change of DCG when its two responses swap.

    Attributes:
      beta: score scale.
      gain: weight pairs by their difference in label value.
      discount: weight pairs by their difference in discounted rank.
      log_base: of the rank discount.
      reduction: "lists" is the mean over lists of the sum over pairs (paper); "pairs" the mean over all pairs (Rax).
    """

    beta: float = number(0.05, above=0)
    gain: bool = True
    discount: bool = True
    log_base: float = number(math.e, above=1)
    reduction: Literal["lists", "pairs"] = "lists"

    INFO = Info(
        name="lipo",
        function="jaxpo.losses.lipo",
        family="lists",
        paper="LiPO: Listwise Preference Optimization through Learning-to-Rank",
        arxiv="2402.01878",
        certainty="paper, Eq. 5 to 11; the base of its logarithm is not stated (a constant factor)",
        aliases=("lipo_lambda",),
    )
    NEEDS = Needs(roles=("candidate",), columns=("scores",), reference="logps")

    def check_columns(self, columns: Mapping[str, Any]) -> list[str]:
        """The gain 2^score is meant for scores in [0, 1]."""
        import numpy as np

        scores = np.asarray(columns["scores"], np.float64)
        if not self.gain or scores.size == 0 or (np.nanmin(scores) >= 0 and np.nanmax(scores) <= 1):
            return []
        return [
            f"lipo: scores lie between {np.nanmin(scores):g} and {np.nanmax(scores):g}, but the gain 2^score needs "
            "them in [0, 1]; rescale them to win probabilities, or set gain to False."
        ]

    def loss(self, ranked: Ranked) -> dict[str, Array]:
        from jaxpo.losses import lipo

        terms = lipo(
            ranked.candidates.logps,
            ranked.candidates.ref_logps,
            ranked.labels,
            ranked.present,
            beta=self.beta,
            gain=self.gain,
            discount=self.discount,
            log_base=self.log_base,
        )
        return {self.reduction: terms}
