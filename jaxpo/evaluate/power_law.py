"""How a loss falls with the number of samples: L = floor + a n^-b, by least squares on logarithms (arXiv:2505.10527).

log(L - floor) = log a - b log n
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
LEAST = 3
"""Points that a slope with an interval takes."""


@dataclass(frozen=True)
class PowerLaw:
    """A fitted law.

    Attributes:
      exponent: b, larger falls faster; below 0 the loss rises.
      scale: a.
      floor: what no number of samples goes below.
      low, high: 95% interval of b, from the residuals' t distribution, the floor taken as it is.
      r_squared: of the logarithms; NaN where all losses are equal.
      points: n.
    """

    exponent: float
    scale: float
    floor: float
    low: float
    high: float
    r_squared: float
    points: int

    def loss(self, samples: np.ndarray) -> np.ndarray:
        """What the law says at these numbers of samples."""
        return self.floor + self.scale * np.asarray(samples, np.float64) ** -self.exponent


def fit(samples: Sequence[float], losses: Sequence[float], *, floor: float = 0.0) -> PowerLaw:
    """The law through losses at different numbers of samples.

    Args:
      floor: known; see `fit_floor` for one that is not.

    Raises:
      ValueError: fewer than three different numbers of samples, or a loss that is not above the floor.
    """
    from scipy.stats import linregress, t

    n, loss = np.asarray(samples, np.float64), np.asarray(losses, np.float64)
    if len(np.unique(n)) < LEAST or n.min() <= 0:
        raise ValueError(f"a power law takes losses at {LEAST} different numbers of samples above 0")
    if not loss.min() > floor:
        raise ValueError(f"the loss {loss.min():g} is not above the floor {floor:g}")
    x, y = np.log(n), np.log(loss - floor)
    line = linregress(x, y)
    half = float(t.ppf((1 + LEVEL) / 2, len(n) - 2) * line.stderr)
    r_squared = float(line.rvalue**2) if np.ptp(y) > 0 else float("nan")
    b = -float(line.slope)
    return PowerLaw(b, float(np.exp(line.intercept)), floor, b - half, b + half, r_squared, len(n))


def fit_floor(samples: Sequence[float], losses: Sequence[float]) -> PowerLaw:
    """The law whose floor, from 0 to below the smallest loss, leaves the least squared residual of the losses."""
    from scipy.optimize import minimize_scalar

    smallest = float(np.min(losses))

    def residual(floor: float) -> float:
        return float(np.sum((fit(samples, losses, floor=floor).loss(np.asarray(samples)) - losses) ** 2))

    best = minimize_scalar(residual, bounds=(0.0, smallest * (1 - 1e-9)), method="bounded", options={"xatol": 1e-10})
    return fit(samples, losses, floor=float(best.x) if best.fun < residual(0.0) else 0.0)
