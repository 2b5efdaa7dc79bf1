"""Two models on the same examples: the difference, its paired bootstrap, and McNemar's test. Imports no jax."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from jaxpo.evaluate.intervals import LEVEL, RESAMPLES
from jaxpo.evaluate.results import TaskResult
from jaxpo.evaluate.tasks.base import Cell, cells
from jaxpo.evaluate.tasks.reading import Score


@dataclass(frozen=True)
class Difference:
    """A result of one model less that of another.

    Attributes:
      value: ours - theirs.
      n: examples, the same on both sides.
      low, high: 95% interval by the paired bootstrap; None of a single example.
      better, worse: examples on which we do better, and worse; the others tie.
      p: McNemar's exact test of a score of zeros and ones; None of other scores.
    """

    value: float
    n: int
    low: float | None
    high: float | None
    better: int
    worse: int
    p: float | None = None

    def record(self) -> dict[str, Any]:
        """For results.json."""
        return asdict(self)


def differences(ours: TaskResult, theirs: TaskResult) -> dict[str, Difference]:
    """Result -> difference, of every result that comes from single examples.

    Raises:
      ValueError: the two have other examples.
    """
    found = {}
    pairs = zip(cells(ours.scored, ours.scores), cells(theirs.scored, theirs.scores), strict=True)
    for mine, other in pairs:
        if (mine.name, mine.members) != (other.name, other.members):
            raise ValueError(f"{ours.label}: {mine.name} and {other.name} are not of the same examples")
        found[mine.name] = difference(mine, ours, theirs)
    return found


def difference(cell: Cell, ours: TaskResult, theirs: TaskResult, seed: int = 0) -> Difference:
    """The difference of one result; both sides' examples are resampled together."""
    a, b = cell.values(ours.scored), cell.values(theirs.scored)
    v, w = cell.weights(ours.scored), cell.weights(theirs.scored)
    n = len(a)
    generator = np.random.Generator(np.random.Philox(seed))
    picked = generator.integers(n, size=(RESAMPLES, n))
    resampled = _read(cell.how, a[picked], v[picked]) - _read(cell.how, b[picked], w[picked])
    ends = [float(x) for x in np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])] if n > 1 else [None, None]
    gain = (a / np.maximum(v, 1e-300) - b / np.maximum(w, 1e-300)) * (1 if cell.how.higher else -1)
    better, worse = int((gain > 0).sum()), int((gain < 0).sum())
    value = float(_read(cell.how, a, v) - _read(cell.how, b, w))
    p = mcnemar(better, worse) if cell.how.binary else None
    return Difference(value, n, ends[0], ends[1], better, worse, p)


def mcnemar(better: int, worse: int) -> float:
    """Exact two-sided p that both kinds of discordant examples are equally likely (McNemar 1947; binomial form).

    p = min(1, 2 sum_{i <= min(b, c)} C(b + c, i) / 2^{b + c})
    """
    n = better + worse
    tail = sum(math.comb(n, i) for i in range(min(better, worse) + 1))
    return min(1.0, 2 * tail / 2**n)


def _read(how: Score, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    found = values.sum(-1) / np.maximum(weights.sum(-1), 1e-300)
    return np.exp(found) if how.exp else found
