"""TPO on trees: all branches of a tree teach more than its best and its worst."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from evidence.claims._linear_lists import adam, direction, items, pair_accuracy
from evidence.harness import Claim

from jaxpo.losses import dpo, step_weights, tpo_tree

CLAIM = Claim(
    method="tpo_tree",
    paper="arXiv:2410.12854",
    claim="On 5 noisily graded branches per problem TPO's list loss orders held-out branches better than DPO on the "
    "best and the worst.",
    baseline="DPO on (best, worst)",
    measure="held-out pair accuracy, TPO minus DPO",
    seeds=(0, 1, 2, 3, 4),
    threshold=0.02,
)

PROBLEMS, TEST, BRANCHES, STEPS_OF_A_BRANCH, DIMENSIONS = 100, 1000, 5, 3, 20
NOISE, BETA, STEPS, RATE = 0.5, 0.5, 400, 0.05


def branches(rng, count):
    """Step features `[count, branches, steps, dimensions]`, one token per step; a branch's score is their mean's."""
    return items(rng, count * BRANCHES, STEPS_OF_A_BRANCH, DIMENSIONS).reshape(count, BRANCHES, STEPS_OF_A_BRANCH, -1)


def tree(theta, x, hidden, grades):
    """TPO with its default weights, from hidden states that share a direction."""
    ratio, where = x @ theta, jnp.ones(grades.shape, bool)
    tokens = jnp.ones(ratio.shape)
    weights = step_weights(hidden, tokens, grades, where)
    return jnp.mean(tpo_tree(ratio, tokens, weights, grades, where, beta=BETA))


def uniform(theta, x, hidden, grades):
    """TPO with equal weights."""
    ratio, where = x @ theta, jnp.ones(grades.shape, bool)
    tokens = jnp.ones(ratio.shape)
    return jnp.mean(tpo_tree(ratio, tokens, tokens, grades, where, beta=BETA))


def best_and_worst(theta, x, hidden, grades):
    """DPO on the two ends of each list, at the same scale: beta per step is TPO's beta over the number of steps."""
    total, rows = jnp.sum(x @ theta, axis=2), jnp.arange(x.shape[0])
    chosen, rejected = total[rows, jnp.argmax(grades, axis=1)], total[rows, jnp.argmin(grades, axis=1)]
    zero = jnp.zeros_like(chosen)
    return jnp.mean(dpo(chosen, rejected, zero, zero, beta=BETA / STEPS_OF_A_BRANCH))


TRAINERS = {f.__name__: adam(f, STEPS, RATE) for f in (tree, uniform, best_and_worst)}


def measure(seed: int, problems: int = PROBLEMS, test: int = TEST) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    u = direction(rng, DIMENSIONS)
    x, held = branches(rng, problems), branches(rng, test)
    scale = np.sqrt(STEPS_OF_A_BRANCH)  # makes the mean over steps of unit variance
    noisy = scale * (x @ u).mean(axis=2) + NOISE * rng.standard_normal((problems, BRANCHES))
    grades = (1 / (1 + np.exp(-noisy))).astype(np.float32)
    hidden = (2.0 + rng.standard_normal((*x.shape[:3], 8))).astype(np.float32)
    accuracy = {}
    for name, train in TRAINERS.items():
        theta = train(jnp.zeros(DIMENSIONS), x, hidden, grades)
        accuracy[name] = pair_accuracy(theta, held.mean(axis=2), held.mean(axis=2) @ u)
    return {
        "method": accuracy["tree"],
        "baseline": accuracy["best_and_worst"],
        "effect": accuracy["tree"] - accuracy["best_and_worst"],
        "uniform weights": accuracy["uniform"],
    }
