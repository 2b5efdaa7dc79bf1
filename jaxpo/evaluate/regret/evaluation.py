"""How often rewards that are learnt from preferences lead to near-optimal policies, by model and number of pairs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from jaxpo.evaluate.regret.learning import NEAR_OPTIMAL, Fit, Model, learn, policy_features, quality
from jaxpo.evaluate.regret.processes import Process
from jaxpo.evaluate.regret.segments import Statistic, labelled

MODELS: tuple[Model, ...] = ("regret", "partial_return")


@dataclass(frozen=True)
class Comparison:
    """What came of both models.

    Attributes:
      pairs: that each was learnt from.
      returns: model -> scaled return of each process.
    """

    pairs: int
    returns: dict[str, list[float]]

    def near_optimal(self, model: Model) -> int:
        """Processes whose scaled return is above 0.9."""
        return sum(value > NEAR_OPTIMAL for value in self.returns[model])


def compared(
    processes: Iterable[tuple[Process, np.ndarray]],
    sizes: Sequence[int],
    fit: Fit,
    *,
    seed: int,
    labels: Statistic = "regret",
    noise: bool = False,
    length: int = 3,
) -> list[Comparison]:
    """Both models on the same preferences of the same processes.

    Args:
      processes: each with the true weights of its reward.
      sizes: numbers of pairs; smaller sets are the beginnings of larger ones' draws only by chance.
      labels: the statistic that the labels follow.
      noise: labels are drawn, instead of saying what is better.
      length: of a segment.
    """
    found = [Comparison(size, {model: [] for model in MODELS}) for size in sizes]
    for i, (process, weights) in enumerate(processes):
        rng = np.random.default_rng([seed, i])
        successors = policy_features(process, rng, fit, without=weights)
        for comparison in found:
            how = {"kind": labels, "noise": noise, "length": length, "gamma": fit.gamma}
            data = labelled(process, weights, rng, comparison.pairs, **how)  # type: ignore[arg-type]
            for model in MODELS:
                learnt = learn(process, data, model, fit, successors)
                comparison.returns[model].append(quality(process, learnt, weights, gamma=fit.gamma))
    return found
