"""Length-controlled win rates: they rank models by quality, and an answer's length does not buy them."""

from __future__ import annotations

import numpy as np
from evidence.harness import Claim
from scipy.stats import spearmanr

from jaxpo.evaluate.alpaca.glm import Compared, fit, predictions, relative_length

CLAIM = Claim(
    method="lc_alpacaeval",
    paper="arXiv:2404.04475",
    claim="Win rates at equal lengths rank 20 models by quality better than raw ones, and a model that doubles its "
    "answers' length moves them by less than a third of what it moves the raw one.",
    baseline="raw win rates",
    measure="the smaller of Spearman's gain and of 1/3 minus the share of the raw change",
    seeds=(0, 1, 2, 3),
    threshold=0.01,
    min_share=1.0,
)

MODELS, INSTRUCTIONS = 20, 400


def measure(seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(size=INSTRUCTIONS)
    baseline = _lengths(rng, 0.0)
    quality, verbosity = rng.normal(0, 0.8, MODELS), rng.normal(0, 0.5, MODELS)
    gamed = [_judged(0.0, difficulty, baseline, _lengths(rng, v)) for v in (0.5, -0.7)]
    sizes = [_lengths(rng, v) for v in verbosity]
    raw, controlled = np.asarray(
        [_rates(q, difficulty, baseline, n, gamed) for q, n in zip(quality, sizes, strict=True)]
    ).T
    middle = int(np.argsort(quality, kind="stable")[MODELS // 2])
    longer = _rates(quality[middle], difficulty, baseline, 2 * sizes[middle], gamed)
    share = abs(longer[1] - controlled[middle]) / abs(longer[0] - raw[middle])
    ranks = spearmanr(controlled, quality).statistic, spearmanr(raw, quality).statistic
    return {
        "method": ranks[0],
        "baseline": ranks[1],
        "effect": min(ranks[0] - ranks[1], 1 / 3 - share),
        "share of the raw change": share,
    }


def _lengths(rng, verbosity):
    return np.maximum(1, 1500 * np.exp(verbosity + 0.4 * rng.normal(size=INSTRUCTIONS)))


def _judged(quality, difficulty, baseline, size):
    """The judge's preference, which length moves."""
    logit = quality + 0.8 * difficulty - 1.2 * np.tanh((baseline - size) / 900)
    return Compared(1 / (1 + np.exp(-logit)), relative_length(baseline, size), difficulty)


def _rates(quality, difficulty, baseline, size, gamed):
    """Raw and length-controlled."""
    one = _judged(quality, difficulty, baseline, size)
    return one.label.mean(), predictions(fit(one, gamed), difficulty, INSTRUCTIONS).mean()
