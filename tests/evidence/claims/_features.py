"""Full-batch Adam on small trees of parameters, compiled once for all seeds."""

from __future__ import annotations

import jax
import optax


def adam(objective, steps, rate):
    """`train(params, *data)`: the parameters after so many steps on `objective(params, *data)`."""
    optimizer = optax.adam(rate)

    @jax.jit
    def train(params, *data):
        def step(state, _):
            params, moments = state
            updates, moments = optimizer.update(jax.grad(objective)(params, *data), moments)
            return (optax.apply_updates(params, updates), moments), None

        return jax.lax.scan(step, (params, optimizer.init(params)), None, length=steps)[0][0]

    return train
