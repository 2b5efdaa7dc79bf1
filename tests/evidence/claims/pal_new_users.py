"""PAL: a new user is fitted from a handful of pairs, by K - 1 numbers."""

from __future__ import annotations

import numpy as np
from evidence.claims._ideal_points import (
    HELD_OUT,
    NOISE,
    PAIRS,
    USERS,
    accuracy,
    comparisons,
    fitted,
    mixtures,
    newcomers,
)
from evidence.harness import Claim

FEW = (2, 5, 10, 20)

CLAIM = Claim(
    method="pal",
    paper="arXiv:2406.08469",
    claim="Unseen users, of whom 20 pairs are known, are served within 3 points of the users of the training data.",
    baseline="accuracy for the users of the training data, less 0.03",
    measure="accuracy for 20 unseen users on held-out pairs, minus the baseline",
    seeds=(10, 11, 12, 13, 14),
    threshold=0.0,
    min_share=0.8,
)


def measure(seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    users, strangers = mixtures(rng, USERS), mixtures(rng, USERS)
    params = fitted(rng, 2, *comparisons(rng, users, PAIRS, NOISE))
    seen = accuracy(params, *comparisons(rng, users, HELD_OUT, 0.0))
    few, held = comparisons(rng, strangers, max(FEW), NOISE), comparisons(rng, strangers, HELD_OUT, 0.0)
    found = {n: accuracy(newcomers(params, *(side[:, :n] for side in few)), *held) for n in FEW}
    ours = found[max(FEW)]
    beside = {f"{n} pairs": x for n, x in found.items()}
    return {"method": ours, "baseline": seen - 0.03, "effect": ours - (seen - 0.03), **beside}
