"""Listwise preference optimisation through learning to rank."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from jaxpo.data.rows.needs import Needs
from jaxpo.objectives.methods.base import Info, number
from jaxpo.objectives.methods.features import ListMethod
from jaxpo.objectives.methods.list_checks import Ties, outside, tie_problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jax import Array

    from jaxpo.objectives.families.lists import Ranked

OVER_PAIRS = ("pair_logistic", "pair_hinge", "lambda")


@dataclass(frozen=True)
class LiPO(ListMethod):
    """A ranking loss on the implicit rewards of a list; by default pairs weighted by the change of DCG when they swap.

    Attributes:
      loss_type: "lambda" is the proposal; the other six are what the paper compares it with.
      beta: score scale.
      gain: lambda alone: weight pairs by their difference in label value.
      discount: lambda alone: weight pairs by their difference in discounted rank.
      log_base: lambda alone: of the rank discount.
      times_list_size: lambda alone: multiply the weights by the list's number of responses; recent versions of Rax
        by its length with padding.
      reduction: "lists" is the mean over lists of the sum over pairs (paper); "pairs" the mean over all pairs (Rax).
      ties: list_mle alone: what to do about equal scores, which Plackett-Luce does not know.
    """

    loss_type: Literal["lambda", "point_mse", "point_sigmoid", "pair_logistic", "pair_hinge", "list_mle", "softmax"] = (
        "lambda"
    )
    beta: float = number(0.05, above=0)
    gain: bool = True
    discount: bool = True
    log_base: float = number(math.e, above=1)
    times_list_size: bool = False
    reduction: Literal["lists", "pairs"] = "lists"
    ties: Ties = "error"

    INFO = Info(
        name="lipo",
        family="lists",
        paper="LiPO: Listwise Preference Optimization through Learning-to-Rank",
        arxiv="2402.01878",
        certainty="paper, Eq. 5 to 11; the base of its logarithm is not stated (a constant factor)",
        aliases=("lipo_lambda",),
    )
    NEEDS = Needs(roles=("candidate",), columns=("scores",), networks=(("reference", "logps"),))

    def problems(self) -> list[str]:
        """Fields out of range; a mean over pairs of a loss that is no sum over pairs."""
        found = super().problems()
        if self.reduction == "pairs" and self.loss_type not in OVER_PAIRS:
            found.append(
                f'lipo: reduction "pairs" divides by the number of pairs, but {self.loss_type} is no sum over pairs; '
                'set reduction to "lists".'
            )
        return found

    def check_columns(self, columns: Mapping[str, Any]) -> list[str]:
        """The scores' range, where their values count, and ties, where only their order does."""
        name = "lipo" if self.loss_type == "lambda" else f"lipo with {self.loss_type}"
        if self.loss_type == "list_mle" and self.ties == "error":
            return tie_problem(name, "a Plackett-Luce order has no ties", columns)
        reasons = {
            "lambda": "the gain 2^score needs them in [0, 1]; rescale them to win probabilities, or set gain to False.",
            "point_sigmoid": "they are targets of a probability; rescale them to [0, 1].",
            "softmax": "their shares of the sum are the target; shift them to 0 and above.",
        }
        if self.loss_type not in reasons or (self.loss_type == "lambda" and not self.gain):
            return []
        found = outside(columns, 0.0, math.inf if self.loss_type == "softmax" else 1.0)
        return [f"{name}: {found}, but {reasons[self.loss_type]}"] if found else []

    def loss(self, ranked: Ranked) -> dict[str, Array]:
        from jaxpo import losses

        rows = (ranked.candidates.logps, ranked.candidates.ref_logps)
        if self.loss_type == "lambda":
            terms = losses.lipo(
                *rows,
                ranked.labels,
                ranked.present,
                beta=self.beta,
                gain=self.gain,
                discount=self.discount,
                log_base=self.log_base,
                times_list_size=self.times_list_size,
            )
        else:
            name = "list_softmax" if self.loss_type == "softmax" else self.loss_type
            scores = losses.implicit_scores(*rows, ranked.present, beta=self.beta)
            terms = getattr(losses, name)(scores, ranked.labels, ranked.present)
        return {self.reduction: terms}
