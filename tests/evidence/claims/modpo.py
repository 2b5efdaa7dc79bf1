"""MODPO: one policy per weighting, on the front that the weighted rewards define."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
from evidence.harness import Claim

from jaxpo.losses import dpo, modpo

ARMS, PAIRS, STEPS, BETA = 20, 20_000, 800, 0.5
WEIGHTS = (0.1, 0.3, 0.5, 0.7, 0.9)

CLAIM = Claim(
    method="modpo",
    paper="arXiv:2310.03708",
    claim="MODPO's policies lie on the front pi_ref exp(w . r / beta); DPO on pooled labels gives one point only.",
    baseline="DPO on the pooled pairs of both objectives",
    measure="KL to the optimal policy, averaged over five weightings: 1 - MODPO's / DPO's",
    seeds=(0, 1, 2, 3, 4),
    threshold=0.8,
    min_share=1.0,
)


FIRST, SECOND = (jnp.asarray(x.ravel()) for x in np.indices((ARMS, ARMS)))
"""Every ordered pair of arms: the data are how often each was the outcome."""


def bandit_pairs(rng: np.random.Generator, reward: np.ndarray) -> jnp.ndarray:
    """How often each ordered pair of arms is the outcome of random Bradley-Terry comparisons, as shares."""
    arms = np.stack([rng.integers(0, ARMS, PAIRS), rng.integers(0, ARMS, PAIRS)], axis=1)
    gap = reward[arms[:, 0]] - reward[arms[:, 1]]
    first = rng.random(PAIRS) < 1 / (1 + np.exp(-gap))
    outcome = np.where(first[:, None], arms, arms[:, ::-1])
    count = np.bincount(outcome[:, 0] * ARMS + outcome[:, 1], minlength=ARMS**2)
    return jnp.asarray(count / PAIRS, jnp.float32)


def descend(loss):
    """Adam from the reference on the logits of a policy over arms; returns its log-probs."""
    optimizer = optax.adam(0.02)

    @jax.jit
    def run(ref, share, *data):
        def step(state, _):
            theta, moments = state
            grads = jax.grad(lambda t: jnp.sum(share * loss(jax.nn.log_softmax(t), ref, *data)))(theta)
            updates, moments = optimizer.update(grads, moments)
            return (optax.apply_updates(theta, updates), moments), None

        return jax.nn.log_softmax(jax.lax.scan(step, (ref, optimizer.init(ref)), None, length=STEPS)[0][0])

    return run


def _logps(logp, ref):
    return (logp[FIRST], logp[SECOND], ref[FIRST], ref[SECOND])


_dpo = descend(lambda logp, ref: dpo(*_logps(logp, ref), beta=BETA))
_modpo = descend(
    lambda logp, ref, frozen, weights: modpo(
        *_logps(logp, ref), frozen[FIRST][:, None], frozen[SECOND][:, None], weights=weights, beta=BETA
    )
)


def kl(p, q) -> float:
    return float(jnp.sum(jnp.exp(p) * (p - q)))


def measure(seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    r0, r1 = rng.normal(size=(2, ARMS))
    ref = jax.nn.log_softmax(jnp.asarray(0.5 * rng.normal(size=ARMS), jnp.float32))
    own, other = bandit_pairs(rng, r0), bandit_pairs(rng, r1)
    # Stage 1: the margin reward is what DPO on the other objective's pairs has learnt.
    frozen = BETA * (_dpo(ref, other) - ref)
    pooled = _dpo(ref, (own + other) / 2)
    ours, baseline = [], []
    for w in WEIGHTS:
        best = jax.nn.log_softmax(ref + jnp.asarray(w * r0 + (1 - w) * r1, jnp.float32) / BETA)
        policy = _modpo(ref, own, frozen, jnp.asarray([w, 1 - w], jnp.float32))
        ours.append(kl(policy, best))
        baseline.append(kl(pooled, best))
    method, other_kl = float(np.mean(ours)), float(np.mean(baseline))
    return {
        "method": method,
        "baseline": other_kl,
        "effect": 1 - method / other_kl,
        "MODPO at w = 0.1": ours[0],
        "pooled DPO at its best weighting": min(baseline),
    }
