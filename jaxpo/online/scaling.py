"""Rewards of answers on the scale of all those before: a running mean and deviation, as a fold over the ledger."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from jaxpo.losses import Moments, masked_moments, merged_moments
from jaxpo.objectives.methods.rollouts import ScoreScaling

EPSILON = 1e-8
"""Added to the running deviation."""
NOTHING = Moments(np.float64(0), np.float64(0), np.float64(0))


@dataclass
class Scaler:
    """The rewards of generations, one after another.

    Attributes:
      before: number of a generation -> the rewards `[G, K]` of its answers, as the ledger has them.
    """

    how: ScoreScaling
    before: Callable[[int], np.ndarray]
    _seen: list[Moments] = field(default_factory=lambda: [NOTHING])

    def scaled(self, number: int, rewards: np.ndarray) -> np.ndarray:
        """`[G, K]` on the scale of all answers up to these, n - 1, cut at a size.

        norm: (r - mean) / (std + 1e-8);    scale: r / (std + 1e-8)
        """
        while len(self._seen) <= number:
            self._seen.append(merged_moments(self._seen[-1], moments(self.before(len(self._seen) - 1))))
        now = merged_moments(self._seen[number], moments(rewards))
        deviation = np.sqrt(now.squares / max(now.count - 1.0, 1.0)) + EPSILON
        found = (rewards - now.mean) / deviation if self.how.kind == "norm" else rewards / deviation
        return found if self.how.clip is None else np.clip(found, -self.how.clip, self.how.clip)


def moments(rewards: np.ndarray) -> Moments:
    """Of the answers that have a reward."""
    return masked_moments(rewards, ~np.isnan(rewards))
