"""Bradley-Terry pairs with flipped labels, and a log-linear policy trained on them by full-batch gradient descent."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

DIMENSIONS, NORM = 20, 3.0


def pairs(seed, n, reliability=(0.7,)):
    """Feature differences `[n, 20]` in the labelled order, annotators `[n]`, and the true direction `[20]`.

    The clean label of a pair is drawn from Bradley-Terry at theta* x; the annotator repeats it with their reliability.
    """
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal(DIMENSIONS)
    truth *= NORM / np.linalg.norm(truth)
    x = rng.standard_normal((n, DIMENSIONS))
    who = rng.integers(0, len(reliability), n)
    first = rng.random(n) < 1 / (1 + np.exp(-x @ truth))
    kept = rng.random(n) < np.asarray(reliability)[who]
    sign = np.where(first == kept, 1.0, -1.0)
    return jnp.asarray(x * sign[:, None], jnp.float32), jnp.asarray(who, jnp.int32), truth


def logps(x, theta):
    """`P_w, P_l, R_w, R_l` whose DPO margin at beta = 1 is theta x."""
    zero = jnp.zeros(x.shape[0])
    return x @ theta, zero, zero, zero


def ranking_accuracy(theta, truth, seed):
    """Share of fresh pairs that theta orders as the truth does."""
    fresh = np.random.default_rng((seed, 1)).standard_normal((20_000, DIMENSIONS))
    return float(np.mean((fresh @ np.asarray(theta) > 0) == (fresh @ truth > 0)))


def relative_error(theta, truth):
    """`|theta - theta*| / |theta*|`."""
    return float(np.linalg.norm(np.asarray(theta) - truth) / np.linalg.norm(truth))


def descend(objective, steps, rate):
    """Full-batch gradient descent from 0 on `objective(theta, *data)`, compiled once."""

    @jax.jit
    def train(*data):
        step = lambda _, theta: theta - rate * jax.grad(objective)(theta, *data)  # noqa: E731
        return jax.lax.fori_loop(0, steps, step, jnp.zeros(DIMENSIONS))

    return train
