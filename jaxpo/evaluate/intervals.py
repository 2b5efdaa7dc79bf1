"""95% intervals, and the record of one measurement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

Z = 1.959963984540054
RESAMPLES = 2000
LEVEL = 0.95
BLOCK = 50
"""Resamples at a time."""


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


def told(record: Mapping[str, Any]) -> str:
    """A record of one measurement with an interval, for a table: "0.697 (0.640..0.749)"."""
    return f"{record['value']:.3f} ({record['low']:.3f}..{record['high']:.3f})"


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


def shares(totals: ArrayLike, weights: ArrayLike, seed: int = 0) -> Measurement:
    """As `ratio`, of units each of which has a total between 0 and its weight.

    Where all units agree no resample differs, and the bootstrap would give an interval without width: Wilson's for
    the same mean stands in its place, since no values in [0, 1] of that mean vary more than 0 and 1 do.
    """
    found = ratio(totals, weights, seed)
    return share(found.value * found.n, found.n) if found.low == found.high else found


def bootstrap(statistic: Callable[[np.ndarray], np.ndarray], n: int, seed: int = 0) -> list[Measurement]:
    """Any statistics of weighted units, with percentile intervals over resamples of whole units.

    Args:
      statistic: how often each unit was drawn, `[B, n]` -> the statistics of every resample, `[B, S]`; one that a
        resample does not define is NaN, and left out of the quantiles.
      n: units.
    """
    found = statistic(np.ones((1, n)))[0]
    generator = np.random.Generator(np.random.Philox(seed))
    drawn = []
    for first in range(0, RESAMPLES, BLOCK):
        picked = generator.integers(n, size=(min(BLOCK, RESAMPLES - first), n))
        rows = np.arange(len(picked))[:, None] * n
        counts = np.bincount((picked + rows).ravel(), minlength=picked.size).reshape(picked.shape)
        drawn.append(statistic(counts.astype(np.float64)))
    ends = np.nanquantile(np.concatenate(drawn), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    if n == 1:
        return [Measurement(float(value), 1) for value in found]
    return [Measurement(float(v), n, float(a), float(b)) for v, a, b in zip(found, *ends, strict=True)]


def combined(parts: Sequence[Measurement], weights: Sequence[float]) -> Measurement:
    """The weighted mean of independent results; its interval from theirs (Zou and Donner 2008, eq. 8 and 9).

        low = sum w v - sqrt(sum w^2 (v - low_i)^2),   high = sum w v + sqrt(sum w^2 (high_i - v)^2),   sum w = 1

    A part without an interval has no sampling error. n counts the cases of all parts.
    """
    w = np.asarray(weights, np.float64) / np.sum(weights)
    values = np.asarray([part.value for part in parts])
    below = [part.value - (part.value if part.low is None else part.low) for part in parts]
    above = [(part.value if part.high is None else part.high) - part.value for part in parts]
    value = float(w @ values)
    low, high = value - float(np.linalg.norm(w * below)), value + float(np.linalg.norm(w * above))
    return Measurement(value, sum(part.n for part in parts), low, high)
