"""HyPER in the mean over draws of labels: routing by a fitted performance model beats every other mix."""

from __future__ import annotations

import numpy as np
from evidence.claims.hybrid_prefs import OTHERS, draw
from evidence.harness import Claim

CLAIM = Claim(
    method="hybrid_prefs",
    paper="arXiv:2410.19133",
    claim="In the mean over six draws, as many instances as are hard, routed to people by a linear performance model "
    "of 100 proxy runs, train a better reward model than people alone, the judge alone, or a random half; 'hard' has "
    "the largest mean coefficient.",
    baseline="the best mean of people alone, the judge alone and a random half",
    measure="accuracy on held-out pairs, routed minus baseline; -1 where 'hard' has not the largest coefficient",
    seeds=(100, 101, 102),
    threshold=0.005,
    min_share=1.0,
)

DRAWS = 6


def measure(seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    found = [draw(rng) for _ in range(DRAWS)]
    mean = {name: float(np.mean([one[name] for one in found])) for name in ("routed", *OTHERS)}
    best = max(mean[name] for name in OTHERS)
    right = int(np.argmax(np.mean([one["coefficients"] for one in found], axis=0))) == 0
    effect = mean["routed"] - best if right else -1.0
    return {"method": mean["routed"], "baseline": best, "effect": effect, **{name: mean[name] for name in OTHERS}}
