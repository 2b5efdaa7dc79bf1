"""MiCRo, stage 2: ten comparisons of a user, whose taste the prompt does not show, choose the head."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from evidence.claims._routed_directions import (
    HELD_OUT,
    PAIRS,
    accuracy,
    after_comparisons,
    clean,
    directions,
    pairs,
    router_weights,
    start,
    train,
)
from evidence.harness import Claim

CONTEXT = 10

CLAIM = Claim(
    method="micro",
    paper="arXiv:2505.24846",
    claim="For a user with one fixed direction, ten comparisons through Hedge order held-out pairs better than the "
    "router of the first stage, which follows the prompt.",
    baseline="the router of the first stage, without context",
    measure="accuracy on the user's held-out pairs, mean over the two directions, with context minus without",
    seeds=(10, 11, 12, 13, 14),
    threshold=0.1,
    min_share=1.0,
)


def measure(seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    truth = directions(rng)
    params = train(start(rng), *pairs(rng, truth, PAIRS))
    ours, plain = [], []
    for meant in (0, 1):
        context, _ = pairs(rng, truth, CONTEXT, meant)
        x, prompt = clean(rng, truth, HELD_OUT, meant)
        prior = router_weights(params, prompt)
        weights = after_comparisons(params, jnp.mean(prior, axis=0), context)
        ours.append(accuracy(params, x, weights))
        plain.append(accuracy(params, x, prior))
    method, baseline = float(np.mean(ours)), float(np.mean(plain))
    return {"method": method, "baseline": baseline, "effect": method - baseline}
