"""SPO on sampled answers: three styles that beat one another in a circle all stay, where a scalar reward keeps one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from evidence.harness import Claim, NotReproduced

from jaxpo.losses import exploitability, win_rates

CLAIM = Claim(
    method="spo_minimax",
    paper="arXiv:2401.04056",
    claim="Policy gradient on the win rates of eight sampled answers keeps three styles that beat one another in a "
    "circle; on the scores of a scalar reward model it ends on one style, which its counter-style beats.",
    baseline="the same policy gradient on the expected win rate against the first policy, a scalar score of each style",
    measure="exploitability of the baseline's policy, minus that of SPO's average policy",
    seeds=(0, 1, 2, 3, 4),
    threshold=0.5,
    min_share=1.0,
    not_reproduced=NotReproduced(
        "every seed has the sign, but in this circle two styles have the same mean score (0.9 - 0.8 and 0.8 - 0.7), so "
        "that the baseline ends on a mixture of both, which loses 0.39 and not 0.8. spo_minimax_styles_untied, "
        "registered after this run, has a circle without a tie",
        (0.3, 0.45),
    ),
)

BEATS = (0.9, 0.7, 0.8)
"""Of style 0 over 1, 1 over 2, 2 over 0: preferences in [-1, 1]."""
GROUP, GROUPS, STEPS, RATE = 8, 16, 3000, 0.02


def game(beats=BEATS):
    a, b, c = beats
    return jnp.asarray([[0, a, -c], [-a, 0, b], [c, -b, 0]], jnp.float32)


def run(key, payoffs, scores=None):
    """The average policy, and the last; rewards are win rates in groups, or scores of styles."""
    others = ~np.eye(GROUP, dtype=bool)

    def step(theta, key):
        styles = jax.random.categorical(key, theta, shape=(GROUPS, GROUP))
        if scores is None:
            met = payoffs[styles[:, :, None], styles[:, None, :]]
            rewards = win_rates(met, jnp.broadcast_to(others, met.shape))
        else:
            rewards = scores[styles]
        advantages = rewards - jnp.mean(rewards, axis=1, keepdims=True)
        gradient = jax.grad(lambda t: jnp.mean(advantages * jax.nn.log_softmax(t)[styles]))(theta)
        # Hedge's step is that of the natural gradient: the mean advantage of a style.
        probabilities = jax.nn.softmax(theta)
        return theta + RATE * gradient / jnp.maximum(probabilities, 0.02), probabilities

    last, path = jax.lax.scan(step, jnp.zeros(3), jax.random.split(key, STEPS))
    return jnp.mean(path, axis=0), jax.nn.softmax(last)


def measure(seed: int, beats=BEATS) -> dict[str, float]:
    key, payoffs = jax.random.key(seed), game(beats)
    average, _ = run(key, payoffs)
    _, single = run(key, payoffs, scores=payoffs @ jnp.full(3, 1 / 3))
    ours, plain = (float(exploitability(payoffs, p)) for p in (average, single))
    return {"method": ours, "baseline": plain, "effect": plain - ours, "rarest style": float(jnp.min(average))}
