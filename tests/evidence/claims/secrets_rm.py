"""Preference strength: the lowest strengths of an ensemble are wrong labels, and flipping makes them useful."""

from __future__ import annotations

import numpy as np
from evidence.harness import Claim

from jaxpo.construct.hybrid.proxy import bradley_terry_head
from jaxpo.construct.secrets_rm import lowest, strength

CLAIM = Claim(
    method="secrets_rm",
    paper="arXiv:2401.06080",
    claim="With a quarter of the labels flipped, reward models trained on the lowest tenth or second tenth of "
    "strengths alone are worse than chance, and the lowest fifth with its labels flipped trains a good one.",
    baseline="the lowest fifth as it is labelled",
    measure="the smaller of: 0.5 minus the better accuracy of the two lowest tenths; accuracy of the flipped fifth "
    "minus 0.9",
    seeds=(0, 1, 2, 3, 4),
    threshold=0.01,
    min_share=1.0,
)

DIMENSIONS, PAIRS, MEMBERS, FLIPS, TEST, RATE = 10, 2000, 10, 0.25, 20_000, 0.05


def measure(seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=DIMENSIONS)
    x = rng.normal(size=(PAIRS, DIMENSIONS))
    flipped = rng.random(PAIRS) < FLIPS
    x *= (np.sign(x @ truth) * np.where(flipped, -1, 1))[:, None]
    scores = np.stack([x @ _one_pass(x[rng.permutation(PAIRS)]) for _ in range(MEMBERS)])
    mu, _ = strength(scores, np.zeros_like(scores))
    fresh = rng.normal(size=(TEST, DIMENSIONS))
    fresh *= np.sign(fresh @ truth)[:, None]
    accuracy = lambda rows: float(np.mean(fresh @ bradley_terry_head(rows, 1.0) > 0))  # noqa: E731
    order = np.argsort(mu, kind="stable")
    tenths = [accuracy(x[part]) for part in np.split(order, 10)]
    fifth = lowest(mu, 0.2)
    mended = accuracy(-x[fifth])
    return {
        "method": mended,
        "baseline": accuracy(x[fifth]),
        "effect": min(0.5 - max(tenths[:2]), mended - 0.9),
        "share of the lowest fifth that was flipped": float(flipped[fifth].mean()),
        **{f"tenth {i}": value for i, value in enumerate(tenths)},
    }


def _one_pass(x: np.ndarray) -> np.ndarray:
    """One epoch of stochastic gradient descent on softplus(-w x), in the order of the rows."""
    w = np.zeros(x.shape[1])
    for row in x:
        w += RATE * row / (1 + np.exp(row @ w))
    return w
