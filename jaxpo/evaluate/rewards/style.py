"""How much of a reward model's verdicts is style: WorldPM's controlled evaluation (arXiv:2505.10527, sec. 2.3).

Of a pair with reward difference D and style differences z, all pairs written better first:

    R = alpha D + beta . z,   (alpha, beta) = argmin mean softplus(-R)        uncontrolled: beta = 0, alpha fitted

There is no intercept, so a pair written the other way round (-D, -z, label 0) says the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from jaxpo.evaluate.intervals import Measurement, bootstrap
from jaxpo.evaluate.rewards.judged import Judged, all_pairs

FEATURES = ("length", "lists", "headers", "bold")
"""Tokens, items of markdown lists, headers, bold passages; code blocks count as text alone."""
CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
LISTS = re.compile(r"^\s*(?:[-*+]|\d+\.)\s", re.MULTILINE)
HEADERS = re.compile(r"^#{1,6}\s", re.MULTILINE)
BOLD = re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__")
STEPS, HALVINGS, PRECISION = 60, 12, 1e-10


def style_of(text: str, tokens: int) -> tuple[float, ...]:
    """The counts of `FEATURES` of an answer."""
    plain = CODE.sub("", text)
    return tokens, *(float(len(pattern.findall(plain))) for pattern in (LISTS, HEADERS, BOLD))


def differences(style: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """(Z(better) - Z(worse)) / (Z(better) + Z(worse)), 0 at 0/0: `[K, F]` counts -> `[P, F]`."""
    better, worse = style[pairs[:, 0]], style[pairs[:, 1]]
    return (better - worse) / np.maximum(better + worse, 1e-300)


def standardised(z: np.ndarray) -> np.ndarray:
    """Each feature over its standard deviation where every pair is taken both ways round: its mean is 0."""
    spread = np.sqrt(np.mean(z * z, axis=0, keepdims=True))
    return np.divide(z, spread, out=np.zeros_like(z), where=spread > 0)


def fit(x: np.ndarray, counts: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
    """argmin_w sum_p counts_p softplus(-x_p . w) by Newton's method with halved steps; 0 for what has no effect.

    Where all pairs can be separated there is no minimum: the loss is then as good as 0 when the gradient is.

    Args:
      x: `[P, F]`.
      counts: `[B, P]`, one problem per row.

    Returns:
      `[B, F]`.
    """
    total = counts.sum(1, keepdims=True)
    w = np.zeros((len(counts), x.shape[1])) if start is None else np.repeat(start[None], len(counts), 0)
    for _ in range(STEPS):
        wrong = 1 / (1 + np.exp(np.clip(w @ x.T, -700, 700)))
        gradient = -(counts * wrong) @ x / total
        if np.abs(gradient).max() < PRECISION:
            break
        curvature = counts * wrong * (1 - wrong) / total
        outer = (x[:, :, None] * x[:, None, :]).reshape(len(x), -1)
        hessian = (curvature @ outer).reshape(len(w), x.shape[1], x.shape[1])
        w = _shortened(w, -(np.linalg.pinv(hessian, hermitian=True) @ gradient[..., None])[..., 0], x, counts)
    return w


def losses(x: np.ndarray, w: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean softplus(-x . w), `[B]`."""
    return (counts * np.logaddexp(0, -(w @ x.T))).sum(1) / counts.sum(1)


def _shortened(w: np.ndarray, step: np.ndarray, x: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The step, halved where it makes a loss larger."""
    before, size = losses(x, w, counts), np.ones((len(w), 1))
    for _ in range(HALVINGS):
        worse = losses(x, w + size * step, counts) > before
        if not worse.any():
            break
        size[worse] /= 2
    return w + size * step


def style_results(judged: Sequence[Judged]) -> dict[str, Measurement]:
    """Loss and accuracy with and without control, and what the fit gives each feature; resampled by prompts."""
    margins, unit = all_pairs(judged, "margins")
    z = standardised(np.concatenate([differences(one.style, one.pairs) for one in judged]))
    scale = float(np.sqrt(np.mean(margins**2))) or 1.0
    x = np.column_stack([margins / scale, z])
    ones = np.ones((1, len(x)))
    starts = fit(x, ones)[0], fit(x[:, :1], ones)[0]

    def statistic(counts: np.ndarray) -> np.ndarray:
        n = counts[:, unit]
        w, alone = fit(x, n, starts[0]), fit(x[:, :1], n, starts[1])
        right = (n * (w @ x.T > 0)).sum(1) / n.sum(1)
        columns = losses(x, w, n), losses(x[:, :1], alone, n), right, w[:, 0] / scale, *w[:, 1:].T
        return np.column_stack(columns)

    names = ["style_loss", "uncontrolled_loss", "style_accuracy", "style_alpha", *(f"style_beta_{f}" for f in FEATURES)]
    return dict(zip(names, bootstrap(statistic, len(judged)), strict=True))


def phi(first: np.ndarray, second: np.ndarray, unit: np.ndarray, n: int) -> Measurement | None:
    """Correlation of two verdicts on pairs, each taken both ways round: (agree - disagree) / both decided.

    phi = (n11 n00 - n10 n01) / sqrt(n1. n0. n.1 n.0), whose margins are then all equal.

    Args:
      first, second: `[P]`, above 0 for the one answer, below 0 for the other; at 0 a verdict has none, and the pair is
        left out.
      unit: the prompt of each pair, of n.
    """
    product = np.sign(first) * np.sign(second)
    if not product.any():
        return None

    def statistic(counts: np.ndarray) -> np.ndarray:
        drawn = counts[:, unit]
        with np.errstate(invalid="ignore"):
            return ((drawn @ product) / (drawn @ np.abs(product)))[:, None]

    return bootstrap(statistic, n)[0]
