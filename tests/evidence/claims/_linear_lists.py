"""Lists of items with linear scores, and their scorers trained by full-batch Adam."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

DECAY = 1e-3
"""Weight of |theta|^2, the same for every loss: it only keeps separable data from growing without end."""


def adam(objective, steps, rate):
    """Minimise `objective(theta, *data) + DECAY |theta|^2` from a start, compiled once: `train(theta, *data)`."""
    optimizer = optax.adam(rate)

    def regularised(theta, *data):
        return objective(theta, *data) + DECAY * jnp.sum(jnp.square(theta))

    @jax.jit
    def train(theta, *data):
        def step(_, at):
            theta, state = at
            updates, state = optimizer.update(jax.grad(regularised)(theta, *data), state)
            return optax.apply_updates(theta, updates), state

        return jax.lax.fori_loop(0, steps, step, (theta, optimizer.init(theta)))[0]

    return train


def items(rng, lists, size, dimensions):
    """Standard normal features `[lists, size, dimensions]`."""
    return rng.standard_normal((lists, size, dimensions)).astype(np.float32)


def direction(rng, dimensions):
    """A random unit vector."""
    u = rng.standard_normal(dimensions)
    return u / np.linalg.norm(u)


def pair_accuracy(theta, x, truth):
    """Share of the pairs of every list `[lists, size, dimensions]` that theta orders as the true scores do."""
    s = np.asarray(x @ np.asarray(theta))
    a, b = np.triu_indices(s.shape[1], 1)
    return float(np.mean((s[:, a] > s[:, b]) == (truth[:, a] > truth[:, b])))
