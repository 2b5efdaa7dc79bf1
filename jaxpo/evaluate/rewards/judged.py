"""What a reward model said of the answers to one prompt, and the pairs that these make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxpo.evaluate.tasks.base import Scored


@dataclass(frozen=True, kw_only=True)
class Judged(Scored):
    """One prompt's answers, `[K]` each unless said otherwise.

    Attributes:
      quality: what the data say of them, larger is better.
      rewards: what the model says.
      lengths: tokens of the answers' texts.
      style: `[K, 4]`, see `jaxpo.evaluate.rewards.style`.
      pairs: `[P, 2]`, better and worse, as places among the answers.
      subset: of the data that it belongs to; "" without such.
      group: of subsets, such as "adversarial", "objective" and "subjective"; the subset where there is no other.
      tied: of RewardBench 2's ties "ref" or "tied", and the number that the two share.
      cut: whether an answer lost its end, or its prompt the start.
    """

    quality: np.ndarray
    rewards: np.ndarray
    lengths: np.ndarray
    style: np.ndarray
    pairs: np.ndarray
    subset: str = ""
    group: str = ""
    tied: tuple[str, int] | None = None
    cut: bool = False

    @property
    def margins(self) -> np.ndarray:
        """r(better) - r(worse) of each pair, `[P]`."""
        return _difference(self.rewards, self.pairs)

    @property
    def longer(self) -> np.ndarray:
        """Tokens of the better answer less those of the worse, `[P]`."""
        return _difference(self.lengths, self.pairs)

    @property
    def markdown(self) -> np.ndarray:
        """List items, headers and bold passages of the better answer less those of the worse, `[P]`."""
        return _difference(self.style[:, 1:].sum(1), self.pairs)


def pairs_of(quality: Sequence[float], gap: float) -> np.ndarray:
    """`[P, 2]`: better and worse of every two answers whose qualities differ, by `gap` at least."""
    found = [
        (i, j)
        for i, better in enumerate(quality)
        for j, worse in enumerate(quality)
        if better > worse and better - worse >= gap
    ]
    return np.asarray(found, np.int64).reshape(-1, 2)


def best_of(values: np.ndarray, quality: np.ndarray, n: int) -> float:
    """Expected quality of the answer with the largest value among n of the K, drawn without replacement.

        sum_k quality_(k) C(k, n - 1) / C(K, n),   k = 0 ... K - 1 in the order of the values

    Equal values share their places.
    """
    from math import comb

    _, group = np.unique(values, return_inverse=True)
    shared = np.bincount(group, quality) / np.bincount(group)
    ordered, size = np.sort(group), len(values)
    chances = np.asarray([comb(k, n - 1) / comb(size, n) for k in range(size)])
    return float(shared[ordered] @ chances)


def all_pairs(judged: Sequence[Judged], of: str) -> tuple[np.ndarray, np.ndarray]:
    """A property of all pairs, `[P]`, and the prompt that each belongs to."""
    parts = [getattr(one, of) for one in judged]
    return np.concatenate(parts), np.repeat(np.arange(len(parts)), [len(part) for part in parts])


def _difference(values: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    return values[pairs[:, 0]] - values[pairs[:, 1]]
