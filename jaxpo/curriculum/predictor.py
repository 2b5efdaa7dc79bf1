"""Predict an item's difficulty from its prompt alone, so that items nobody graded can be put in order too.

The LFM2 Technical Report (arXiv 2511.23404, section 4) says that a classifier on prompt features does this, not which
one: here it is ridge regression (scikit-learn) on hashed n-grams, numbers and lengths. Boosted and extremely randomised
trees ranked 2,000 arithmetic items no better (rho within 0.01) at ten times the cost.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from jaxpo.errors import ConfigError

BUCKETS = 192
RESAMPLES = 1000
# Fewer graded items than this make neither a fit nor a rank correlation.
FEWEST = 20
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_WORD = re.compile(r"[^\W\d]+")


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rho between predicted and measured difficulty with a 95% interval (bootstrap over items).

    Attributes:
      rho: None where one side does not vary, so that there are no ranks.
    """

    rho: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class PredictorReport:
    """How well the predictor does on items it was not fitted to.

    Attributes:
      held_out: of the predictor.
      length: of the prompt's length in characters as the prediction: what needs no predictor.
      fitted: of the predictor on its own training items; far above `held_out` means that it knows them by heart.
    """

    held_out: RankCorrelation
    length: RankCorrelation
    fitted: RankCorrelation

    def record(self) -> dict[str, Any]:
        """For `summary.json`."""
        return asdict(self)


class Predictor:
    """Prompt texts -> difficulty in [0, 1]; deterministic."""

    def __init__(self, texts: Sequence[str], difficulty: np.ndarray):
        from sklearn.linear_model import RidgeCV
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        # The penalty is chosen by leave-one-out error, which ridge regression has in closed form.
        self._model = make_pipeline(StandardScaler(), RidgeCV(alphas=np.logspace(0, 4, 9)))
        with _one_thread():
            self._model.fit(prompt_features(texts), np.asarray(difficulty, np.float64))

    def predict(self, texts: Sequence[str]) -> np.ndarray:
        """Difficulty of each prompt, float64 `[n]`."""
        with _one_thread():
            return np.clip(self._model.predict(prompt_features(texts)), 0.0, 1.0)


def _one_thread() -> Any:
    """Small systems are slower on several threads, and their sums would depend on how many there are."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1)


def prompt_features(texts: Sequence[str]) -> np.ndarray:
    """float32 `[n, F]`: sizes, the prompt's numbers, and how often each bucket of hashed n-grams occurs.

    Nothing but the prompt goes in: no answer, no model's output, no authored label.
    """
    from sklearn.feature_extraction.text import HashingVectorizer

    def counts(**settings: Any) -> np.ndarray:
        vectorizer = HashingVectorizer(n_features=BUCKETS, alternate_sign=False, norm=None, **settings)
        return vectorizer.transform(texts).toarray()

    words = counts(analyzer="word", ngram_range=(1, 2), token_pattern=r"[^\W\d]+")
    characters = counts(analyzer="char_wb", ngram_range=(3, 4))
    return np.hstack([[_sizes(text) for text in texts], words, characters]).astype(np.float32)


def _sizes(text: str) -> list[float]:
    """Lengths of the text; count, digits, size, sum and product of its numbers; its first three numbers."""
    numbers = [float(n) for n in _NUMBER.findall(text)]
    digits = [len(n) for n in _NUMBER.findall(text)]
    first = [*numbers[:3], -1.0, -1.0, -1.0][:3]
    return [
        len(text),
        len(_WORD.findall(text)),
        sum(text.count(c) for c in ".?!"),
        len(numbers),
        max(digits, default=0),
        sum(digits),
        max(numbers, default=0.0),
        min(numbers, default=0.0),
        sum(numbers),
        sum(math.log1p(n) for n in numbers),
        sum(n % 10 for n in numbers),
        *first,
    ]


def fit_predictor(
    texts: Sequence[str], difficulty: np.ndarray, *, held_out: float = 0.25, seed: int = 0
) -> tuple[Predictor, PredictorReport]:
    """A predictor fitted to all graded items, and a report from one fitted without a held-out share of them.

    Args:
      texts: `[n]` prompts; items with the same prompt stay on the same side of the split.
      difficulty: `[n]`.
      held_out: share of the items for the report.

    Raises:
      ConfigError: fewer than 20 items, or a share that leaves one side empty.
    """
    if len(texts) < FEWEST:
        raise ConfigError(
            f"{len(texts)} graded items are too few to fit a difficulty predictor; grade at least {FEWEST}."
        )
    unique = list(dict.fromkeys(texts))
    rng = np.random.Generator(np.random.Philox(seed))
    out = {unique[i] for i in rng.permutation(len(unique))[: round(held_out * len(unique))]}
    test = np.asarray([text in out for text in texts])
    if test.all() or not test.any():
        raise ConfigError(f"a held-out share of {held_out:g} of {len(unique)} prompts leaves one side empty.")
    inside, outside = ([t for t, x in zip(texts, test, strict=True) if x == side] for side in (False, True))
    part = Predictor(inside, difficulty[~test])
    report = PredictorReport(
        held_out=rank_correlation(part.predict(outside), difficulty[test], seed),
        length=rank_correlation(np.asarray([len(t) for t in outside]), difficulty[test], seed),
        fitted=rank_correlation(part.predict(inside), difficulty[~test], seed),
    )
    return Predictor(texts, difficulty), report


def rank_correlation(predicted: np.ndarray, measured: np.ndarray, seed: int = 0) -> RankCorrelation:
    """Spearman's rho (scipy; ties get mean ranks) with a percentile bootstrap over items."""
    from scipy.stats import rankdata, spearmanr

    n = len(predicted)
    if n < 3 or np.ptp(predicted) == 0 or np.ptp(measured) == 0:
        return RankCorrelation(None, None, None, n)
    rng = np.random.Generator(np.random.Philox(seed))
    picked = rng.integers(n, size=(RESAMPLES, n))
    a, b = rankdata(predicted[picked], axis=1), rankdata(measured[picked], axis=1)
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    scale = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    rhos = (a * b).sum(1)[scale > 0] / scale[scale > 0]
    low, high = np.quantile(rhos, [0.025, 0.975])
    return RankCorrelation(float(spearmanr(predicted, measured).statistic), float(low), float(high), n)
