"""Twenty responses of which eight are in the pairs and the others are bad; policies share six features."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

RESPONSES, COVERED, DIMENSIONS, PAIRS, BAD = 20, 8, 6, 200, -2.0


class Problem(NamedTuple):
    """Features `[20, 6]`, true rewards `[20]`, and pairs of covered responses by Bradley-Terry, `[200]` each."""

    features: jax.Array
    rewards: jax.Array
    chosen: jax.Array
    rejected: jax.Array


def problem(seed: int) -> Problem:
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((RESPONSES, DIMENSIONS))
    rewards = np.full(RESPONSES, BAD)
    rewards[:COVERED] = rng.standard_normal(COVERED)
    first = rng.integers(0, COVERED, PAIRS)
    other = (first + rng.integers(1, COVERED, PAIRS)) % COVERED
    wins = rng.random(PAIRS) < 1 / (1 + np.exp(-(rewards[first] - rewards[other])))
    sides = (np.where(wins, first, other), np.where(wins, other, first))
    return Problem(*(jnp.asarray(x, jnp.float32) for x in (features, rewards)), *(jnp.asarray(x) for x in sides))


def logps(theta: jax.Array, features: jax.Array) -> jax.Array:
    """The policy's; the reference's at theta = 0."""
    return jax.nn.log_softmax(features @ theta)


def figures(theta: jax.Array, it: Problem) -> tuple[float, float, float]:
    """Mean true reward, mass on uncovered responses, and KL to the uniform reference, of the policy."""
    own = logps(theta, it.features)
    p = jnp.exp(own)
    return float(p @ it.rewards), float(p[COVERED:].sum()), float(p @ own + jnp.log(float(RESPONSES)))
