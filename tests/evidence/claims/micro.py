"""MiCRo: heads routed by the prompt learn two directions from pairs whose users nobody names."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from evidence.claims._routed_directions import (
    DIMENSIONS,
    HELD_OUT,
    PAIRS,
    accuracy,
    clean,
    directions,
    pairs,
    router_weights,
    single,
    start,
    train,
)
from evidence.harness import Claim

CLAIM = Claim(
    method="micro",
    paper="arXiv:2505.24846",
    claim="From 4,000 anonymous pairs whose criterion the prompt shows, four routed heads order pairs better than one "
    "Bradley-Terry model.",
    baseline="Bradley-Terry, one direction",
    measure="accuracy on held-out pairs with right labels, MiCRo minus Bradley-Terry",
    seeds=(0, 1, 2, 3, 4),
    threshold=0.1,
    min_share=1.0,
)


def measure(seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    truth = directions(rng)
    data, (x, prompt) = pairs(rng, truth, PAIRS), clean(rng, truth, HELD_OUT)
    params, one = train(start(rng), *data), single(jnp.zeros(DIMENSIONS), *data)
    ours, plain = accuracy(params, x, router_weights(params, prompt)), float(jnp.mean(x @ one > 0))
    return {"method": ours, "baseline": plain, "effect": ours - plain}
