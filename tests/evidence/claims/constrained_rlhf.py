"""Constrained RLHF on a bandit: a proxy reward that is held at its proxy point keeps the true score that PPO loses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from evidence.harness import Claim

from jaxpo.losses import constrained_advantages, multipliers, update_multipliers, whiten

CLAIM = Claim(
    method="constrained_rlhf",
    paper="arXiv:2310.04373",
    claim="Of 21 answers whose true score falls beyond a proxy reward of 0.6, policy gradient that holds the proxy at "
    "0.6 ends with a larger true score than the same with the KL as a penalty alone.",
    baseline="policy gradient on the proxy less 0.05 of the KL",
    measure="true score, xi-PPO minus the baseline; -1 where the proxy is further than 0.03 from its threshold",
    seeds=(0, 1, 2, 3, 4),
    threshold=0.15,
    min_share=1.0,
)

ARMS, BATCH, STEPS, RATE, THETA, COEF = 21, 256, 3000, 0.05, 0.6, 0.2
PROXY = jnp.linspace(0.0, 1.0, ARMS)
TRUE = PROXY - 3.0 * jnp.maximum(PROXY - THETA, 0.0)
"""Rises to 0.6 with the proxy, and falls twice as fast beyond."""


def _gradient(theta, arms, advantages):
    return jax.grad(lambda t: jnp.mean(advantages * jax.nn.log_softmax(t)[arms]))(theta)


@jax.jit
def constrained(key):
    """Policy after xi-PPO at a ratio of 1, averaged over the second half."""

    def step(carry, key):
        theta, state = carry
        logp = jax.nn.log_softmax(theta)
        arms = jax.random.categorical(key, theta, shape=(BATCH,))
        streams = (-COEF * (logp[arms] + jnp.log(ARMS)), PROXY[arms])
        here = jnp.ones(BATCH, bool)
        each = jnp.stack([whiten(x, here) for x in streams], axis=-1)
        mixed = constrained_advantages(each, multipliers(state["logits"], bound="tanh"), bound="tanh")
        moved = update_multipliers(state, jnp.mean(PROXY[arms])[None], jnp.asarray([THETA]), bound="tanh")
        return (theta + RATE * _gradient(theta, arms, mixed), moved), jax.nn.softmax(theta)

    state = {"logits": jnp.zeros(1), "velocity": jnp.zeros(1)}
    _, path = jax.lax.scan(step, (jnp.zeros(ARMS), state), jax.random.split(key, STEPS))
    return jnp.mean(path[STEPS // 2 :], axis=0)


@jax.jit
def penalised(key):
    """Policy after policy gradient on r - 0.05 KL."""

    def step(theta, key):
        logp = jax.nn.log_softmax(theta)
        arms = jax.random.categorical(key, theta, shape=(BATCH,))
        reward = PROXY[arms] - 0.05 * (logp[arms] + jnp.log(ARMS))
        return theta + RATE * _gradient(theta, arms, whiten(reward, jnp.ones(BATCH, bool))), jax.nn.softmax(theta)

    _, path = jax.lax.scan(step, jnp.zeros(ARMS), jax.random.split(key, STEPS))
    return jnp.mean(path[STEPS // 2 :], axis=0)


def measure(seed: int) -> dict[str, float]:
    key = jax.random.key(seed)
    held, free = constrained(key), penalised(key)
    ours, plain, proxy = float(held @ TRUE), float(free @ TRUE), float(held @ PROXY)
    effect = ours - plain if abs(proxy - THETA) <= 0.03 else -1.0
    return {
        "method": ours,
        "baseline": plain,
        "effect": effect,
        "proxy": proxy,
        "proxy of the baseline": float(free @ PROXY),
    }
