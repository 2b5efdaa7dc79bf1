"""Who labels what: max over masks m of f(phi(m)), with at most so many instances for people."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np

from jaxpo.construct.hybrid.performance import THRESHOLDS, Performance, gains
from jaxpo.construct.hybrid.subsets import counts, random_fill

Strategy = Literal["topk", "simulated", "greedy", "positive", "cumulative"]
SIMULATIONS = 500


@dataclass(frozen=True)
class Router:
    """How instances are chosen.

    Attributes:
      strategy: "topk", the largest gains, exact for a linear model; "simulated", the best of random subsets; "greedy",
        the largest gain given those chosen before; "positive", all gains above 0; "cumulative", all above a threshold.
        The last two take fewer than the budget where fewer gain.
      simulations: subsets per budget of "simulated".
      threshold: of "cumulative"; None = 1e-4 of a linear model, 1e-5 of others.
    """

    strategy: Strategy = "topk"
    simulations: int = SIMULATIONS
    threshold: float | None = None

    def route(
        self,
        model: Performance,
        has: np.ndarray,
        budget: int,
        rng: np.random.Generator,
        gained: np.ndarray | None = None,
    ) -> np.ndarray:
        """m, bool `[N]`, with at most `budget` True.

        Args:
          has: B, `[N, F]`.
          gained: gains, where they are computed from another B than counts; None = from `has`.
        """
        if self.strategy == "simulated":
            return self._simulated(model, has, budget, rng)
        if self.strategy == "greedy":
            return _greedy(model, has, budget)
        g = gains(model, has) if gained is None else gained
        # Equal gains: the lower index first.
        order = np.argsort(-g, kind="stable")[:budget]
        if self.strategy != "topk":
            least = self.threshold if self.threshold is not None else THRESHOLDS[model.kind]
            order = order[g[order] > (0.0 if self.strategy == "positive" else least)]
        mask = np.zeros(len(has), bool)
        mask[order] = True
        return mask

    def _simulated(self, model: Performance, has: np.ndarray, budget: int, rng: np.random.Generator) -> np.ndarray:
        masks = np.stack([random_fill(has, budget, rng) for _ in range(self.simulations)])
        return masks[int(np.argmax(model.predict(counts(has, masks))))]


def _greedy(model: Performance, has: np.ndarray, budget: int) -> np.ndarray:
    mask = np.zeros(len(has), bool)
    for _ in range(budget):
        mask[int(np.argmax(np.where(mask, -np.inf, gains(model, has, mask))))] = True
    return mask


def size_of(budget: float, n: int) -> int:
    """A budget as a number of instances: a share from 0 to 1, rounded down, or a number above 1."""
    return share_of(budget, n) if budget <= 1 else min(int(budget), n)


def share_of(share: float, n: int) -> int:
    """A share from 0 to 1 of n, rounded down as the decimal number that was written: 0.29 of 100 is 29."""
    return int(Fraction(str(share)) * n)
