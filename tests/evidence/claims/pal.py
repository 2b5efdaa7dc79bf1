"""PAL: two prototypes serve users between two ideal points; one serves their mean."""

from __future__ import annotations

import numpy as np
from evidence.claims._ideal_points import HELD_OUT, NOISE, PAIRS, USERS, accuracy, comparisons, fitted, mixtures
from evidence.harness import Claim

CLAIM = Claim(
    method="pal",
    paper="arXiv:2406.08469",
    claim="With 20 users at random places between two ideal points and 50 noisy pairs each, PAL-A with two prototypes "
    "orders held-out pairs better than with one, which is a reward model shared by all.",
    baseline="PAL-A with one prototype",
    measure="accuracy on held-out pairs of the same users, K = 2 minus K = 1",
    seeds=(0, 1, 2, 3, 4),
    threshold=0.1,
    min_share=1.0,
)


def measure(seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    users = mixtures(rng, USERS)
    train, held = comparisons(rng, users, PAIRS, NOISE), comparisons(rng, users, HELD_OUT, 0.0)
    ours, shared = (accuracy(fitted(rng, k, *train), *held) for k in (2, 1))
    return {"method": ours, "baseline": shared, "effect": ours - shared}
