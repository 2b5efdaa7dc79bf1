"""Rewards of several groups as one: the worst-off group's, each answer's least, or smooth weights that follow them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from jaxpo.config.online import MaxMin

LEAST = 1e-8
"""A standard deviation below this says nothing of a reward's scale, which is left as it is."""


@dataclass
class Mixer:
    """What a generation's rewards are, group by group: a fold over the rewards of those before it.

    Attributes:
      groups: numbers of the rewards that are groups'; others are only measured.
      before: number of a generation -> its rewards `[G, K, F]`, as the ledger has them.
    """

    how: MaxMin
    groups: list[int]
    before: Callable[[int], np.ndarray]
    _logits: list[np.ndarray] = field(init=False)
    _scale: tuple[np.ndarray, np.ndarray] | None = None

    def __post_init__(self) -> None:
        self._logits = [np.zeros(len(self.groups))]  # before each generation

    def mixed(self, number: int, rewards: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rewards `[G, K, 1 or U]` of a generation and their weights.

        Args:
          rewards: `[G, K, F]` of it.
        """
        own = self.comparable(rewards, number)
        if self.how.mode == "sample":
            return own.min(axis=-1, keepdims=True), np.ones(1)
        return own, self.weights(number, own)

    def weights(self, number: int, own: np.ndarray) -> np.ndarray:
        """`[U]`: 1 for the worst-off group of this generation; or what the generations up to it have made of them."""
        if self.how.mode == "group":
            return np.eye(len(self.groups))[int(np.argmin(utilities(own)))]
        while len(self._logits) <= number:
            earlier = len(self._logits) - 1
            self._logits.append(self._moved(self._logits[-1], self.comparable(self.before(earlier), earlier)))
        logits = self._moved(self._logits[number], own)
        found = np.exp(logits - logits.max())
        weights: np.ndarray = found / found.sum()
        return weights

    def _moved(self, logits: np.ndarray, own: np.ndarray) -> np.ndarray:
        """log lambda - eta F, but for a constant; a group without a reward stays where it is."""
        utility = utilities(own)
        moved: np.ndarray = logits - self.how.learning_rate * np.where(np.isfinite(utility), utility, 0.0)
        return moved

    def comparable(self, rewards: np.ndarray, number: int) -> np.ndarray:
        """`[G, K, U]` the groups' rewards, as z-scores over the answers of the first generation."""
        own = rewards[..., self.groups]
        if not self.how.standardise:
            return own
        if self._scale is None:
            first = own if number == 0 else self.before(0)[..., self.groups]
            self._scale = np.nanmean(first, axis=(0, 1)), np.nanstd(first, axis=(0, 1))
        mean, deviation = self._scale
        return (own - mean) / np.where(deviation > LEAST, deviation, 1.0)

    def worst(self, rewards: np.ndarray) -> float:
        """The smallest mean of a group over these answers; the first generation has been written."""
        return float(utilities(self.comparable(rewards, 1)).min())


def utilities(own: np.ndarray) -> np.ndarray:
    """`[U]` mean reward of each group over the answers that have it; infinite where none has."""
    known = ~np.isnan(own)
    total, count = np.where(known, own, 0).sum(axis=(0, 1)), known.sum(axis=(0, 1))
    return np.where(count > 0, total / np.maximum(count, 1), np.inf)
