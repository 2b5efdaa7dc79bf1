"""Multi-objective direct preference optimisation."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from jaxpo.objectives.methods.base import PAIRS_AND_REFERENCE, Info, number
from jaxpo.objectives.methods.features import PairMethod

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jax import Array

    from jaxpo.objectives.base import Metric
    from jaxpo.objectives.families.pairs import Pair


@dataclass(frozen=True)
class MODPO(PairMethod):
    """DPO on one objective's pairs with the other objectives' rewards, column `rewards`, as a margin.

    Attributes:
      beta: strength of the tie to the reference.
      weights: w_0 of the objective that labelled the pairs, then one weight for each name in `rewards`, in alphabetical
        order. Train one policy per weighting; rule-based penalties take (1, lambda).
      form: "logistic", or "hinge".
    """

    beta: float = number(0.1, above=0)
    weights: tuple[float, ...] = (0.5, 0.5)
    form: Literal["logistic", "hinge"] = "logistic"

    INFO = Info(
        name="modpo",
        family="pairs",
        paper="Beyond One-Preference-Fits-All Alignment: Multi-Objective Direct Preference Optimization",
        arxiv="2310.03708",
        certainty="authors' code",
    )
    NEEDS = replace(PAIRS_AND_REFERENCE, columns=("rewards",))

    def problems(self) -> list[str]:
        found, name = super().problems(), self.INFO.name
        if len(self.weights) < 2 or not all(math.isfinite(w) for w in self.weights):
            found.append(f"{name}: weights is {self.weights!r} but must be two or more finite numbers.")
        elif self.weights[0] <= 0:
            found.append(
                f"{name}: weights[0] is {self.weights[0]:g} but must be greater than 0; with no weight on the "
                "pairs' own objective, train on pairs of another one."
            )
        return found

    def check_columns(self, columns: Mapping[str, Any]) -> list[str]:
        """One weight per reward, and one for the pairs."""
        import numpy as np

        if "rewards" not in columns or np.size(columns["rewards"]) == 0:
            return []
        found = np.shape(columns["rewards"])[1]
        if found + 1 == len(self.weights):
            return []
        return [
            f"{self.INFO.name}: column 'rewards' holds {found} reward(s) per response, but weights has "
            f"{len(self.weights)} entries; give {found + 1}: the pairs' own, then one per name in alphabetical order."
        ]

    def rewards(self, pair: Pair) -> tuple[Array, Array]:
        """The frozen rewards of both sides, `[N, C]`."""
        table = pair.columns["rewards"]
        return table[..., 0], table[..., 1]

    def loss(self, pair: Pair) -> Array:
        from jaxpo.losses import modpo

        settings: dict[str, Any] = {"weights": self.weights, "beta": self.beta, "form": self.form}
        return modpo(*pair.logps, *self.rewards(pair), where=pair.present, **settings)

    def metrics(self, pair: Pair) -> dict[str, Metric]:
        """`rewards/*` of objective 0: what the policy stands for once the frozen rewards are taken off."""
        import jax.numpy as jnp

        from jaxpo.losses import modpo_reward
        from jaxpo.objectives.base import masked_mean

        sides = zip((pair.chosen, pair.rejected), self.rewards(pair), strict=True)
        chosen, rejected = (
            modpo_reward(side.logps, side.ref_logps, rewards, weights=self.weights, beta=self.beta)
            for side, rewards in sides
        )
        return {
            "rewards/chosen": masked_mean(chosen, pair.present),
            "rewards/rejected": masked_mean(rejected, pair.present),
            "rewards/margins": masked_mean(chosen - rejected, pair.present),
            "rewards/accuracies": masked_mean((chosen > rejected).astype(jnp.float32), pair.present),
        }
