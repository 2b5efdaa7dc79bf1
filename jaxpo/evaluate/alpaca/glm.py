"""Length-controlled win rates: a logistic regression of the judge's preference, read at equal lengths.

Dubois et al. 2024 (arXiv:2404.04475). Of one model against a fixed baseline, per instruction

    t = tanh(D / sd(D)),   D = characters of the baseline's output - of the model's,   x = (t, difficulty, 1)
    w = argmin |w|_1 + C sum_i s_i (softplus(x_i . w) - y_i x_i . w)
    win rate = 100 mean_i sigmoid(w_3 + w_2 difficulty_i),  t = 0,  over all instructions

y in [0, 1] is the preference for the model. Rows of a baseline that was told to be long or short ("gamed") stand before
the model's with x_3 = 0 and s = lambda / 2. The minimiser is scikit-learn's liblinear, as in the reference.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxpo.evaluate.intervals import Measurement, Z

STRENGTHS = np.logspace(-4, 4, 10)
FOLDS, SEED = 5, 123
GAMED_WEIGHT = 0.2
LENGTH, DIFFICULTY, MODEL = "length", "difficulty", "model"


@dataclass(frozen=True)
class Compared:
    """Outputs that a judge compared with the baseline's, `[n]` each.

    Attributes:
      label: y, the preference for the model; NaN = none was given.
      length: t.
      difficulty: of each instruction; None = the regression has no such term.
    """

    label: np.ndarray
    length: np.ndarray
    difficulty: np.ndarray | None = None

    def design(self, model: float) -> np.ndarray:
        """`[n, 3]`, or `[n, 2]` without difficulty."""
        middle = [] if self.difficulty is None else [self.difficulty]
        return np.column_stack([self.length, *middle, np.full(len(self.length), model)])


@dataclass(frozen=True)
class Fit:
    """What the regression found.

    Attributes:
      weights: of length, difficulty and the model; that of difficulty is 0 without the term.
      strength: C, which cross-validation chose.
    """

    weights: np.ndarray
    strength: float


BASELINE = Fit(np.zeros(3), float("nan"))
"""What a baseline has against itself, by definition."""


def label_of(preference: np.ndarray | float) -> np.ndarray:
    """AlpacaEval's preference (1 = baseline, 2 = model, 0 or 1.5 = draw) as y in [0, 1]; NaN stays."""
    found = np.asarray(preference, np.float64)
    return np.where(found == 0, 1.5, found) - 1


def relative_length(baseline: Sequence[int], model: Sequence[int]) -> np.ndarray:
    """t = tanh(D / sd(D)) of characters, sd with n - 1; 0 where all differ by the same, which shows nothing."""
    difference = np.asarray(baseline, np.float64) - np.asarray(model, np.float64)
    spread = difference.std(ddof=1) if len(difference) > 1 else 0.0
    return np.tanh(difference / spread) if spread > 0 else np.zeros_like(difference)


def fit(model: Compared, gamed: Sequence[Compared] = (), *, gamed_weight: float = GAMED_WEIGHT) -> Fit:
    """The regression of one model, C by cross-validation.

    Args:
      gamed: rows of the baseline told to be long, and told to be short.
      gamed_weight: lambda; each of two gamed rows weighs half of it.
    """
    parts = [(one, 0.0, gamed_weight / 2) for one in gamed] + [(model, 1.0, 1.0)]
    x = np.concatenate([one.design(kind) for one, kind, _ in parts])
    y = np.concatenate([one.label for one, *_ in parts])
    s = np.concatenate([np.full(len(one.label), weight) for one, _, weight in parts])
    weights, strength = fit_logistic(x, y, s)
    if model.difficulty is None:
        weights = np.insert(weights, 1, 0.0)
    return Fit(weights, strength)


def fit_logistic(x: Any, y: np.ndarray, s: np.ndarray, strength: float | None = None) -> tuple[np.ndarray, float]:
    """argmin |w|_1 + C sum_i s_i (softplus(x_i . w) - y_i x_i . w) over the rows with a label, and C.

    A soft label is two rows, label 1 with weight y s and label 0 with (1 - y) s, always in the same fold.

    Args:
      x: `[n, F]`, dense or sparse.
      y: `[n]`; NaN = no label.
      s: `[n]`.
      strength: C; None = of 10 the one with the smallest mean over 5 folds of mean_i s_i (soft log-loss).
    """
    from scipy import sparse
    from sklearn.model_selection import GroupKFold

    kept = np.flatnonzero(~np.isnan(y))
    x, y, s = x[kept], y[kept], s[kept]
    twice: Any = sparse.vstack([x, x]).tocsr() if sparse.issparse(x) else np.concatenate([x, x])
    label = np.repeat([1, 0], len(y))
    soft, weight = np.concatenate([y, y]), np.concatenate([s, s])
    sample = np.concatenate([y, 1 - y]) * weight
    if strength is None:
        group = np.tile(np.arange(len(y)), 2)
        folds = list(GroupKFold(FOLDS).split(twice, label, group))
        losses = [
            np.mean([_held_out(twice, label, sample, soft, weight, train, test, c) for train, test in folds])
            for c in STRENGTHS
        ]
        strength = float(STRENGTHS[int(np.argmin(losses))])
    return _liblinear(twice, label, sample, strength).coef_[0], strength


def _held_out(
    x: Any, label: np.ndarray, sample: np.ndarray, soft: np.ndarray, weight: np.ndarray, train: Any, test: Any, c: float
) -> float:
    """Weighted soft log-loss of the rows left out, mean over them."""
    with warnings.catch_warnings():
        # One that has not converged is no good candidate; the last fit, with the chosen C, warns.
        warnings.simplefilter("ignore")
        p = _liblinear(x[train], label[train], sample[train], c).predict_proba(x[test])[:, 1]
    p = np.clip(p, 1e-15, 1 - 1e-15)
    return float(-np.mean(weight[test] * (soft[test] * np.log(p) + (1 - soft[test]) * np.log(1 - p))))


def _liblinear(x: Any, label: np.ndarray, sample: np.ndarray, c: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    how = {"solver": "liblinear", "l1_ratio": 1.0, "fit_intercept": False, "random_state": SEED}
    return LogisticRegression(C=c, **how).fit(x, label, sample_weight=sample)


def predictions(fit: Fit, difficulty: np.ndarray | None, n: int, other: Fit = BASELINE) -> np.ndarray:
    """P(model preferred to other) at equal lengths, `[n]`: sigmoid(w_3 - w_3' + (w_2 - w_2') difficulty)."""
    w = fit.weights - other.weights
    z = w[2] + w[1] * (np.zeros(n) if difficulty is None else difficulty)
    return np.exp(-np.logaddexp(0, -z))


def win_rate(predicted: np.ndarray) -> Measurement:
    """100 mean, in percent; the interval from the reference's standard error 100 sd / sqrt(n), sd with n - 1."""
    n = len(predicted)
    value = 100 * float(predicted.mean())
    if n < 2:
        return Measurement(value, n)
    error = 100 * float(predicted.std(ddof=1)) / n**0.5
    return Measurement(value, n, value - Z * error, value + Z * error)


def extreme(raw: float, controlled: float) -> bool:
    """Whether the two, in percent, differ by more than 10 points and a quarter of the way to the bound."""
    below = controlled < min(raw - raw / 4, raw - 10)
    return below or controlled > max(raw + (100 - raw) / 4, raw + 10)


def fit_difficulty(models: Sequence[Compared], places: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Difficulties of instructions by one regression over many models, for all later ones to share.

    Each model has its own weight of length and its own term, each instruction a term; the first instruction's is 0.

    Args:
      models: their outputs; difficulties are not read.
      places: of each model's rows, the numbers of their instructions, 0 ...

    Returns:
      the numbers that occur, sorted, and their difficulties.
    """
    from scipy import sparse

    instruction = np.concatenate(places)
    known, place = np.unique(instruction, return_inverse=True)
    owner = np.repeat(np.arange(len(models)), [len(one.label) for one in models])
    rows, n = np.arange(len(owner)), len(owner)
    t = np.concatenate([one.length for one in models])
    lengths = sparse.csr_matrix((t, (rows, owner)), (n, len(models)))
    terms = sparse.csr_matrix((np.ones(n), (rows, owner)), (n, len(models)))
    each = sparse.csr_matrix((np.ones(n), (rows, place)), (n, len(known)))[:, 1:]
    y = np.concatenate([one.label for one in models])
    weights, _ = fit_logistic(sparse.hstack([lengths, terms, each]).tocsr(), y, np.ones(n))
    return known, np.concatenate([[0.0], weights[2 * len(models) :]])


def gamed_sums(gamed: Sequence[Compared], weight: float = GAMED_WEIGHT) -> np.ndarray:
    """All that the labels of gamed rows are to a fit: (lambda / 2) sum_i y_i (t_i, difficulty_i)."""
    return weight / 2 * sum(one.design(0.0)[:, :-1].T @ one.label for one in gamed)
