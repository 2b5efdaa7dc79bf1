"""A policy over a few responses whose logits share features: the smallest one in which DPO disperses.

pi = softmax(features @ theta) over 40 unit features in R^4, theta = 0 at the start and as the reference. Response 0 is
chosen, 1 is rejected and has cosine 0.8 to it, the others are in no pair.
"""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

RESPONSES, DIMENSIONS, COSINE, STEPS, RATE = 40, 4, 0.8, 4000, 1.0


def features(seed):
    """Unit rows `[40, 4]`, the first two at cosine 0.8."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((RESPONSES, DIMENSIONS))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    across = x[1] - (x[1] @ x[0]) * x[0]
    x[1] = COSINE * x[0] + np.sqrt(1 - COSINE**2) * across / np.linalg.norm(across)
    return jnp.asarray(x, jnp.float32)


@cache
def trainer(loss):
    """Gradient descent on `loss(P_w, P_l, R_w, R_l)`, compiled once; gives the final log-probs `[40]`."""

    @jax.jit
    def train(x):
        reference = jax.nn.log_softmax(jnp.zeros(RESPONSES))[:2, None]

        def objective(theta):
            logps = jax.nn.log_softmax(x @ theta)[:2, None]
            return jnp.sum(loss(logps[0], logps[1], reference[0], reference[1]))

        descend = lambda _, theta: theta - RATE * jax.grad(objective)(theta)  # noqa: E731
        theta = jax.lax.fori_loop(0, STEPS, descend, jnp.zeros(DIMENSIONS))
        return jax.nn.log_softmax(x @ theta)

    return train
