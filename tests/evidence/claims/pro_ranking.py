"""PRO: rankings of three teach more than pairs, from the same number of prompts."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from evidence.claims._linear_lists import adam, direction, items, pair_accuracy
from evidence.harness import Claim

from jaxpo.losses import pro_ranking

CLAIM = Claim(
    method="pro_ranking",
    paper="arXiv:2306.17492",
    claim="Longer rankings help: PRO on rankings of 3 noisily scored responses orders held-out pairs better than on 2.",
    baseline="PRO on rankings of 2",
    measure="held-out pair accuracy, n = 3 minus n = 2",
    seeds=(0, 1, 2, 3, 4),
    threshold=0.01,
)

PROMPTS, TEST, SIZE, DIMENSIONS, NOISE, STEPS, RATE = 200, 1000, 5, 20, 0.5, 400, 0.05


def objective(theta, x, rewards):
    """The ranking part alone: a linear score has no likelihood. One-token responses, best first."""
    p = x @ theta
    rank, _ = pro_ranking(p, jnp.ones(p.shape), rewards, jnp.ones(p.shape, bool), sft_weight=0.0)
    return jnp.mean(rank)


TRAIN = adam(objective, STEPS, RATE)


def measure(seed: int, prompts: int = PROMPTS, test: int = TEST) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    u = direction(rng, DIMENSIONS)
    x, held = items(rng, prompts, SIZE, DIMENSIONS), items(rng, test, SIZE, DIMENSIONS)
    rewards = (x @ u + NOISE * rng.standard_normal((prompts, SIZE))).astype(np.float32)
    accuracy = {}
    for n in (2, 3, 5):
        order = np.argsort(-rewards[:, :n], axis=1, kind="stable")
        best_first = np.take_along_axis(x[:, :n], order[:, :, None], axis=1)
        theta = TRAIN(jnp.zeros(DIMENSIONS), best_first, np.take_along_axis(rewards[:, :n], order, axis=1))
        accuracy[n] = pair_accuracy(theta, held, held @ u)
    return {
        "method": accuracy[3],
        "baseline": accuracy[2],
        "effect": accuracy[3] - accuracy[2],
        "n = 5": accuracy[5],
    }
