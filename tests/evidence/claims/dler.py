"""DLER: under truncation, advantages of the batch keep more of the hard questions than advantages of the group."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from evidence.harness import Claim, NotReproduced

from jaxpo.losses import dler, dler_rewards, dler_truncated, whiten

QUESTIONS, ANSWERS, STEPS, RATE, WIDTH = 96, 8, 600, 0.02, 0.4
LIMITS = (600.0, 900.0, 1300.0, 1800.0, 2500.0, 3500.0, 5000.0)
NODES = np.quantile(np.random.default_rng(0).standard_normal(4000), (np.arange(16) + 0.5) / 16)

CLAIM = Claim(
    method="dler",
    paper="arXiv:2510.15110",
    claim="With truncation as the only penalty, training on batch-whitened advantages answers more of the hard third "
    "of the questions at equal mean length than training on group-normalised ones.",
    baseline="the same with every group divided by its own deviation",
    measure="chance of success on the hard third at equal mean length, at three lengths within what both sweeps of the "
    "limit reach, batch minus group",
    seeds=(0, 1, 2, 3, 4),
    threshold=0.01,
    not_reproduced=NotReproduced(
        "both normalisations end within 0.002 of each other: with one policy for all questions and new samples in "
        "every step the group's deviation only weighs questions anew. dler_filter, registered after this run, asks "
        "for what filtering does",
        (-0.005, 0.005),
    ),
)


def questions(seed):
    """Difficulty as it is seen `[96, 2]`, the tokens that an answer needs `[96]`, and which are the hard third."""
    rng = np.random.default_rng(seed)
    d = np.sort(rng.uniform(size=QUESTIONS))
    seen = d + 0.15 * rng.standard_normal(QUESTIONS)
    need = 300 * np.exp(2.5 * d)
    return jnp.float32(np.stack([np.ones(QUESTIONS), seen], 1)), jnp.float32(need), jnp.arange(QUESTIONS) >= 64


def success(log_length, need):
    """Rises with the length, from nothing well below what the question needs to 0.95."""
    return 0.95 * jax.nn.sigmoid((log_length - jnp.log(need)) / 0.2)


def normalised(rewards, by):
    """Advantages `[96, 8]`, and which groups have any."""
    centred = rewards - jnp.mean(rewards, axis=1, keepdims=True)
    mixed = jnp.ptp(rewards, axis=1, keepdims=True) > 0
    if by == "group":
        return centred / (jnp.std(rewards, axis=1, ddof=1, keepdims=True) + 1e-4), mixed
    return whiten(centred, jnp.broadcast_to(mixed, centred.shape)), mixed


@partial(jax.jit, static_argnames=("by",))
def _train(key, x, need, limit, *, by):
    """Hard accuracy is measured without the limit, averaged with the mean length over the last hundred steps."""
    optimizer = optax.adam(RATE)

    def step(at, key):
        theta, state = at
        noise, luck = jax.random.split(key)
        log_length = jax.lax.stop_gradient(
            (x @ theta)[:, None] + WIDTH * jax.random.normal(noise, (QUESTIONS, ANSWERS))
        )
        length = jnp.exp(log_length)
        right = jax.random.uniform(luck, length.shape) < success(log_length, need[:, None])
        cut = dler_truncated(length, jnp.ones(length.shape, bool), limit)
        advantage, mixed = normalised(dler_rewards(right.astype(jnp.float32), cut), by)
        on = jnp.broadcast_to(mixed, length.shape).reshape(-1, 1)

        def loss(theta):
            logps = (-0.5 * ((log_length - (x @ theta)[:, None]) / WIDTH) ** 2).reshape(-1, 1)
            terms = dler(logps, jax.lax.stop_gradient(logps), logps, advantage.reshape(-1, 1), on, beta=0.0)
            return jnp.sum(terms) / jnp.maximum(jnp.sum(on), 1)

        updates, state = optimizer.update(jax.grad(loss)(theta), state)
        theta = optax.apply_updates(theta, updates)
        drawn = (x @ theta)[:, None] + WIDTH * jnp.asarray(NODES, jnp.float32)
        return (theta, state), (jnp.mean(success(drawn, need[:, None]), axis=1), jnp.mean(jnp.exp(drawn)))

    start = jnp.asarray([np.log(2500.0), 0.0], jnp.float32)
    _, (accuracy, length) = jax.lax.scan(step, (start, optimizer.init(start)), jax.random.split(key, STEPS))
    return jnp.mean(accuracy[-100:], axis=0), jnp.mean(length[-100:])


def measure(seed: int) -> dict[str, float]:
    x, need, hard = questions(seed)
    curves = {}
    for by in ("batch", "group"):
        run = jax.vmap(partial(_train, by=by), in_axes=(None, None, None, 0))
        accuracy, length = run(jax.random.key(seed), x, need, jnp.asarray(LIMITS))
        order = np.argsort(np.asarray(length), kind="stable")
        curves[by] = np.asarray(length)[order], np.asarray(accuracy)[order][:, np.asarray(hard)].mean(axis=1)
    low, high = (f(curves[by][0][end] for by in curves) for f, end in ((max, 0), (min, -1)))
    where = low + (high - low) * np.array([0.25, 0.5, 0.75])
    found = {by: float(np.mean(np.interp(where, *curves[by]))) for by in curves}
    return {
        "method": found["batch"],
        "baseline": found["group"],
        "effect": found["batch"] - found["group"],
        "mean length": float(where.mean()),
    }
