"""HyPER: a set routed by a fitted performance model trains a better reward model than either source of labels."""

from __future__ import annotations

import numpy as np
from evidence.harness import Claim

from jaxpo.construct.hybrid.performance import fit
from jaxpo.construct.hybrid.proxy import bradley_terry_head
from jaxpo.construct.hybrid.routing import Router
from jaxpo.construct.hybrid.subsets import counts, random_subsets

CLAIM = Claim(
    method="hybrid_prefs",
    paper="arXiv:2410.19133",
    claim="As many instances as are hard, routed to people by a linear performance model of 100 proxy runs, train a "
    "better reward model than people's labels alone, the judge's alone, or a random half of each.",
    baseline="the best of people alone, the judge alone and a random half",
    measure="accuracy on held-out pairs, routed minus baseline; 'hard' has the largest coefficient",
    seeds=(0, 1, 2, 3, 4),
    threshold=0.005,
    min_share=0.8,
)

DIMENSIONS, INSTANCES, TEST, RUNS, HARD = 8, 1000, 20_000, 100, 0.4


def measure(seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=DIMENSIONS)
    x = rng.normal(size=(INSTANCES, DIMENSIONS))
    hard = rng.random(INSTANCES) < HARD
    # One visible feature decides who labels well; two others say nothing.
    has = np.column_stack([hard, ~hard, rng.random((INSTANCES, 2)) < 0.5])
    sign = np.sign(x @ truth)
    human = sign * np.where(rng.random(INSTANCES) < np.where(hard, 0.95, 0.70), 1, -1)
    judge = sign * np.where(rng.random(INSTANCES) < np.where(hard, 0.55, 0.90), 1, -1)
    fresh = rng.normal(size=(TEST, DIMENSIONS))
    fresh *= np.sign(fresh @ truth)[:, None]

    def accuracy(mask: np.ndarray) -> float:
        label = np.where(mask, human, judge)
        return float(np.mean(fresh @ bradley_terry_head(x * label[:, None], 1.0) > 0))

    masks = random_subsets(has, RUNS, rng)
    model = fit(counts(has, masks), np.asarray([accuracy(mask) for mask in masks]), "linear")
    routed = accuracy(Router().route(model, has, int(hard.sum()), rng))
    half = rng.permutation(INSTANCES) < INSTANCES // 2
    others = {
        "people alone": accuracy(np.ones(INSTANCES, bool)),
        "judge alone": accuracy(np.zeros(INSTANCES, bool)),
        "random half": accuracy(half),
    }
    right = int(np.argmax(model.coefficients)) == 0
    best = max(others.values())
    return {"method": routed, "baseline": best, "effect": routed - best if right else -1.0, **others}
