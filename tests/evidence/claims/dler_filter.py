"""DLER: groups whose answers are all wrong dilute the gradient; leaving them out learns faster."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from evidence.claims.dler import ANSWERS, NODES, QUESTIONS, WIDTH, questions, success
from evidence.harness import Claim, NotReproduced

from jaxpo.losses import dler, whiten

RATE, STEPS, HARDER = 0.2, 300, 8.0

CLAIM = Claim(
    method="dler",
    paper="arXiv:2510.15110",
    claim="On questions of which most have no right answer among eight, gradient descent with groups without spread "
    "left out solves more after 300 steps than with them in the batch.",
    baseline="all groups in the batch, whitened over all",
    measure="chance of success on all questions, without minus with the groups that teach nothing",
    seeds=(20, 21, 22, 23, 24),
    threshold=0.01,
    not_reproduced=NotReproduced(
        "300 steps are enough for both to come within a thousandth of the 0.95 that can be reached; with the groups "
        "that teach nothing it is 0.0005 less in every draw",
        (0.0, 0.002),
    ),
)


@partial(jax.jit, static_argnames=("filtered",))
def _train(key, x, need, *, filtered):
    def step(theta, key):
        noise, luck = jax.random.split(key)
        drawn = (x @ theta)[:, None] + WIDTH * jax.random.normal(noise, (QUESTIONS, ANSWERS))
        right = jax.random.uniform(luck, drawn.shape) < success(drawn, need[:, None])
        rewards = right.astype(jnp.float32)
        mixed = jnp.ptp(rewards, axis=1, keepdims=True) > 0
        on = jnp.broadcast_to(mixed | (not filtered), drawn.shape)
        advantage = whiten(rewards - jnp.mean(rewards, axis=1, keepdims=True), on)

        def loss(theta):
            logps = (-0.5 * ((drawn - (x @ theta)[:, None]) / WIDTH) ** 2).reshape(-1, 1)
            mask = on.reshape(-1, 1)
            terms = dler(logps, jax.lax.stop_gradient(logps), logps, advantage.reshape(-1, 1), mask, beta=0.0)
            return jnp.sum(terms) / jnp.maximum(jnp.sum(mask), 1)

        return theta - RATE * WIDTH**2 * jax.grad(loss)(theta), None

    theta, _ = jax.lax.scan(step, jnp.asarray([np.log(2500.0), 0.0], jnp.float32), jax.random.split(key, STEPS))
    drawn = (x @ theta)[:, None] + WIDTH * jnp.asarray(NODES, jnp.float32)
    return jnp.mean(success(drawn, need[:, None]))


def measure(seed: int) -> dict[str, float]:
    x, need, _ = questions(seed)
    without, everything = (
        float(_train(jax.random.key(seed), x, HARDER * need, filtered=filtered)) for filtered in (True, False)
    )
    return {"method": without, "baseline": everything, "effect": without - everything}
