"""Questions of rising difficulty and a policy that chooses how much effort to spend on each.

64 questions of difficulty d in [0, 1] are seen as [1, d + noise]; a linear softmax policy chooses among efforts of
200, 800 and 3,000 tokens. Success is likelier with more effort and falls with d. Every step samples eight answers to
every question; accuracy and length of a policy are exact expectations.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxpo.losses import grpo

QUESTIONS, ANSWERS, STEPS, RATE, LONGEST = 64, 8, 800, 0.03, 4000.0
TOKENS = jnp.asarray([200.0, 800.0, 3000.0])
REACH, SLOPE, NOISE = np.array([0.3, 0.6, 0.9]), 6.0, 0.15


def questions(seed):
    """Features `[64, 2]` and the chance of success of every effort `[64, 3]`."""
    rng = np.random.default_rng(seed)
    d = rng.uniform(size=QUESTIONS)
    seen = d + NOISE * rng.standard_normal(QUESTIONS)
    success = 1 / (1 + np.exp(-SLOPE * (REACH - d[:, None])))
    return jnp.asarray(np.stack([np.ones(QUESTIONS), seen], 1), jnp.float32), jnp.asarray(success, jnp.float32)


@partial(jax.jit, static_argnames=("objective",))
def _train(key, x, success, knob, *, objective):
    optimizer = optax.adam(RATE)

    def step(at, key):
        theta, state, history = at
        efforts, luck = jax.random.split(key)
        chosen = jax.random.categorical(efforts, (x @ theta)[:, None], shape=(QUESTIONS, ANSWERS))
        right = jax.random.uniform(luck, chosen.shape) < jnp.take_along_axis(success, chosen, axis=1)
        length = TOKENS[chosen]

        def loss(theta):
            logps = jnp.take_along_axis(jax.nn.log_softmax(x @ theta), chosen, axis=1)
            return objective(logps, right, length, history[:, None], knob)

        updates, state = optimizer.update(jax.grad(loss)(theta), state)
        shortest = jnp.min(jnp.where(right, length, jnp.inf), axis=1)
        after = jnp.fmin(history, jnp.where(jnp.isfinite(shortest), shortest, jnp.nan))
        theta = optax.apply_updates(theta, updates)
        policy = jax.nn.softmax(x @ theta)
        measured = jnp.mean(jnp.sum(policy * success, 1)), jnp.mean(policy @ TOKENS)
        return (theta, state, after), (*measured, jnp.mean(jnp.isnan(after).astype(jnp.float32)))

    theta = jnp.zeros((2, 3))
    start = (theta, optimizer.init(theta), jnp.full(QUESTIONS, jnp.nan))
    (_, _, history), path = jax.lax.scan(step, start, jax.random.split(key, STEPS))
    accuracy, length, unsolved = path
    return jnp.mean(accuracy[-100:]), jnp.mean(length[-100:]), history, unsolved


def train(seed, objective, knobs):
    """Accuracy and mean tokens `[knobs]` after training by `objective(logps, right, length, history, knob)`.

    Arrays of an objective are `[64, 8]`, the history `[64, 1]`, NaN where a question was never answered.
    """
    x, success = questions(seed)
    run = jax.vmap(partial(_train, objective=objective), in_axes=(None, None, None, 0))
    accuracy, length, _, _ = run(jax.random.key(seed), x, success, jnp.asarray(knobs, jnp.float32))
    return np.asarray(accuracy, float), np.asarray(length, float)


def policy_gradient(logps, rewards, *, scale=True):
    """GRPO on these rewards `[64, 8]`, an answer being one decision."""
    advantage = rewards - jnp.mean(rewards, axis=1, keepdims=True)
    if scale:
        advantage = advantage / (jnp.std(rewards, axis=1, ddof=1, keepdims=True) + 1e-4)
    one = logps.reshape(-1, 1)
    terms = grpo(one, jax.lax.stop_gradient(one), advantage.reshape(-1, 1), jnp.ones(one.shape, bool))
    return jnp.mean(terms)


def plain(logps, right, length, history, knob):
    """GRPO on correctness alone."""
    return policy_gradient(logps, right.astype(jnp.float32))


def penalised(logps, right, length, history, knob):
    """GRPO on correctness less a penalty in proportion to the length, whatever the answer."""
    return policy_gradient(logps, right - knob * length / LONGEST)


def at_length(accuracy, length, where):
    """Accuracy at a mean length, between the settings of a sweep."""
    order = np.argsort(length, kind="stable")
    return float(np.interp(where, length[order], accuracy[order]))
