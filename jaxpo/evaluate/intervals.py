"""95% intervals, and the record of one measurement."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike

Z = 1.959963984540054
RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Measurement:
    """A number with the number of cases behind it and its 95% interval.

    Attributes:
      low, high: None where there is no sampling error (a compressor's result).
    """

    value: float
    n: int
    low: float | None = None
    high: float | None = None

    def record(self) -> dict[str, float | int | None]:
        """For `summary.json`."""
        return asdict(self)


def share(hits: float, n: int) -> Measurement:
    """A proportion with Wilson's score interval (Wilson 1927, eq. 1; Brown, Cai, DasGupta 2001, eq. 4).

        (p + z^2/2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2/n),   p = hits / n

    Args:
      hits: successes; a tie may count one half.
    """
    if n < 1 or not 0 <= hits <= n:
        raise ValueError(f"{hits} of {n} is not a proportion")
    p, zz = hits / n, Z * Z / n
    middle = p + zz / 2
    half = Z * np.sqrt(p * (1 - p) / n + zz / (4 * n))
    return Measurement(p, n, max(0.0, float((middle - half) / (1 + zz))), min(1.0, float((middle + half) / (1 + zz))))


def ratio(totals: ArrayLike, weights: ArrayLike, seed: int = 0) -> Measurement:
    """sum totals / sum weights, with a percentile bootstrap over units (documents, answers): Efron 1979.

    Units are resampled whole, because what they hold (bytes, tokens) is not independent.

    Args:
      totals, weights: `[n]` per unit: bits and bytes, nats and tokens; ones as weights give a mean.
    """
    top, bottom = np.asarray(totals, np.float64), np.asarray(weights, np.float64)
    n = top.size
    if n < 1 or bottom.size != n or bottom.sum() <= 0:
        raise ValueError(f"a ratio needs units with weight; got {n} totals and {bottom.size} weights")
    generator = np.random.Generator(np.random.Philox(seed))
    picked = generator.integers(n, size=(RESAMPLES, n))
    resampled = top[picked].sum(1) / np.maximum(bottom[picked].sum(1), 1e-300)
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Measurement(float(top.sum() / bottom.sum()), n, float(low), float(high))


def mean(values: ArrayLike, seed: int = 0) -> Measurement:
    """Mean of independent values with a bootstrap interval."""
    return ratio(values, np.ones(np.size(values)), seed)
