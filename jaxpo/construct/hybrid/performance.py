"""Performance prediction: from counts of features among human labels to the metric of a model trained with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Kind = Literal["linear", "quadratic", "boosted"]
THRESHOLDS: dict[Kind, float] = {"linear": 1e-4, "quadratic": 1e-5, "boosted": 1e-5}
"""Of `cumulative`: gains below it are not worth a label."""
HELD_OUT = 0.2


@dataclass(frozen=True)
class Performance:
    """y = f(phi).

    Attributes:
      regressor: scikit-learn's.
    """

    kind: Kind
    regressor: Any

    def predict(self, counts: np.ndarray) -> np.ndarray:
        """`[n, F]` -> `[n]`."""
        return np.asarray(self.regressor.predict(counts), np.float64)

    @property
    def coefficients(self) -> np.ndarray:
        """b of the linear model, `[F]`."""
        if self.kind != "linear":
            raise ValueError(f"a {self.kind} model has no coefficient of each feature")
        return np.asarray(self.regressor.coef_)


@dataclass(frozen=True)
class HeldOut:
    """How well a model predicts the runs that it was not fitted to.

    Attributes:
      spearman: rank correlation; NaN where one side does not vary.
    """

    rmse: float
    spearman: float
    runs: int


def fit(counts: np.ndarray, metric: np.ndarray, kind: Kind, seed: int = 0) -> Performance:
    """Least squares on [1, phi_i] or [1, phi_i, phi_i phi_j (i <= j)], or boosted trees.

    Args:
      counts: phi, `[M, F]`.
      metric: y, `[M]`.
    """
    from sklearn.ensemble import GradientBoostingRegressor
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures

    regressors = {
        "linear": LinearRegression(),
        "quadratic": make_pipeline(PolynomialFeatures(2), LinearRegression(fit_intercept=False)),
        "boosted": GradientBoostingRegressor(random_state=seed),
    }
    return Performance(kind, regressors[kind].fit(counts, metric))


def held_out(counts: np.ndarray, metric: np.ndarray, kind: Kind, seed: int = 0) -> HeldOut:
    """RMSE and rank correlation on a fifth of the runs, by a model of the others."""
    from scipy.stats import spearmanr

    order = np.random.default_rng(seed).permutation(len(metric))
    test, train = np.split(order, [max(2, round(HELD_OUT * len(metric)))])
    predicted = fit(counts[train], metric[train], kind, seed).predict(counts[test])
    varies = np.ptp(predicted) > 0 and np.ptp(metric[test]) > 0
    rank = float(spearmanr(predicted, metric[test]).statistic) if varies else float("nan")
    return HeldOut(float(np.sqrt(np.mean((predicted - metric[test]) ** 2))), rank, len(test))


def gains(model: Performance, has: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """f(phi(m) + B_i) - f(phi(m)) of routing each instance alone to people, `[N]`.

    Args:
      has: B, `[N, F]`.
      mask: m, the instances that are there already; None = none.
    """
    base = np.zeros(has.shape[1]) if mask is None else mask.astype(np.float64) @ has
    if model.kind == "linear":
        return has.astype(np.float64) @ model.coefficients
    rows = np.asarray(np.unique(has, axis=0))
    changed = model.predict(base + rows.astype(np.float64)) - model.predict(base[None])
    place = {row.tobytes(): i for i, row in enumerate(rows)}
    return changed[[place[row.tobytes()] for row in has]]
