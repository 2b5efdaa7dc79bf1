"""Two directions of reward in 16 features, and a bit of the prompt that says which is meant; heads and a router."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from evidence.claims._features import adam

from jaxpo.losses import bradley_terry, micro, micro_hedge

DIMENSIONS, HEADS, PAIRS, HELD_OUT, STEPS, SHARPNESS = 16, 4, 4000, 2000, 800, 3.0


def directions(rng):
    """Two directions at a right angle, `[2, 16]`."""
    q, _ = np.linalg.qr(rng.standard_normal((DIMENSIONS, 2)))
    return SHARPNESS * q.T


def pairs(rng, truth, n, meant=None):
    """Chosen less rejected `[n, 16]` and the prompt's features `[n, 2]`, of pairs labelled by Bradley-Terry.

    Args:
      meant: the direction of one user whatever the prompt says; None = the prompt's.
    """
    bit = rng.integers(0, 2, n)
    asked = truth[bit] if meant is None else np.broadcast_to(truth[meant], (n, DIMENSIONS))
    x = rng.standard_normal((n, DIMENSIONS))
    first = rng.random(n) < 1 / (1 + np.exp(-np.sum(x * asked, axis=1)))
    prompt = np.eye(2)[bit] + 0.1 * rng.standard_normal((n, 2))
    return jnp.asarray(np.where(first[:, None], x, -x), jnp.float32), jnp.asarray(prompt, jnp.float32)


def clean(rng, truth, n, meant=None):
    """As `pairs`, every label right."""
    bit = rng.integers(0, 2, n)
    asked = truth[bit] if meant is None else np.broadcast_to(truth[meant], (n, DIMENSIONS))
    x = rng.standard_normal((n, DIMENSIONS))
    prompt = np.eye(2)[bit] + 0.1 * rng.standard_normal((n, 2))
    right = np.where(np.sum(x * asked, axis=1) > 0, 1.0, -1.0)
    return jnp.asarray(x * right[:, None], jnp.float32), jnp.asarray(prompt, jnp.float32)


def start(rng):
    """Heads that start at their random priors, and a small router."""
    prior = rng.standard_normal((DIMENSIONS, HEADS)) / np.sqrt(DIMENSIONS)
    return {
        "heads": jnp.asarray(prior, jnp.float32),
        "router": jnp.asarray(0.1 * rng.standard_normal((2, HEADS)), jnp.float32),
    }


def _objective(params, x, prompt):
    margins = x @ params["heads"]
    return jnp.mean(micro(margins, jnp.zeros_like(margins), prompt @ params["router"], entropy_coefficient=0.05))


train = adam(_objective, STEPS, 0.02)
single = adam(lambda w, x, prompt: jnp.mean(bradley_terry(x @ w, jnp.zeros(len(x)))), STEPS, 0.02)


def router_weights(params, prompt):
    return jax.nn.softmax(prompt @ params["router"], axis=-1)


def accuracy(params, x, weights):
    """Share of pairs whose chosen response has probability above a half under the mixture."""
    return float(jnp.mean(jnp.sum(weights * jax.nn.sigmoid(x @ params["heads"]), axis=-1) > 0.5))


def after_comparisons(params, prior, x):
    """The weights of `micro_hedge` after comparisons `[C, 16]`, at eta = 1."""
    return micro_hedge(prior, jax.nn.softplus(-(x @ params["heads"])))
