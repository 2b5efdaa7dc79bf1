"""GPO: on rock, paper, scissors it stays nearer to the equilibrium than steps along a scalar reward do."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from evidence.claims._features import adam
from evidence.harness import Claim

from jaxpo.losses import bradley_terry, gpm, gpm_mean_scores, gpm_score, gpm_table, gpo

PAIRS, ROUNDS, STEPS, BETA, TEMPERATURE = 60, 3, 500, 0.1, 1.0

CLAIM = Claim(
    method="gpo",
    paper="arXiv:2410.02197",
    claim="From the uniform policy on rock, paper, scissors, three rounds of GPO with a learnt GPM stay nearer to the "
    "uniform equilibrium than three rounds of the same regression on a learnt Bradley-Terry reward.",
    baseline="the regression on the Bradley-Terry reward, less its mean under the policy",
    measure="total variation distance to the uniform policy, Bradley-Terry minus GPM",
    seeds=(0, 1, 2, 3, 4, 5, 6, 7),
    threshold=0.1,
    min_share=0.75,
)


def outcomes(rng):
    """Winners and losers of random duels, of which a tenth goes the wrong way."""
    first = rng.integers(0, 3, PAIRS)
    other = (first + rng.integers(1, 3, PAIRS)) % 3
    wins = ((other - first) % 3 == 1) ^ (rng.random(PAIRS) < 0.1)
    return jnp.where(wins, first, other), jnp.where(wins, other, first)


def embed(weight):
    return weight / jnp.linalg.norm(weight, axis=-1, keepdims=True)


_gpm = adam(lambda v, c, r: jnp.mean(gpm(embed(v)[c], embed(v)[r], temperature=TEMPERATURE)), STEPS, 0.05)
_reward = adam(lambda w, c, r: jnp.mean(bradley_terry(w[c], w[r])), STEPS, 0.05)


def _regression(theta, before, scores):
    """Over all three answers, each as often as the last policy gives it."""
    return jnp.sum(jnp.exp(before) * gpo(jax.nn.log_softmax(theta), before, scores, beta=BETA))


_round = adam(_regression, STEPS, 0.05)


def distance(logps):
    return float(0.5 * jnp.sum(jnp.abs(jnp.exp(logps) - 1 / 3)))


def measure(seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    winners, losers = outcomes(rng)
    start = jnp.asarray(rng.standard_normal((3, 2)), jnp.float32)
    vectors, reward = embed(_gpm(start, winners, losers)), _reward(jnp.zeros(3), winners, losers)
    table = gpm_table(vectors) / TEMPERATURE
    ours = scalar = jnp.full(3, -jnp.log(3.0))
    for _ in range(ROUNDS):
        mean = jnp.einsum("ij,j->i", table, jnp.exp(ours))
        ours = jax.nn.log_softmax(_round(ours, ours, mean))
        scalar = jax.nn.log_softmax(_round(scalar, scalar, reward - jnp.sum(jnp.exp(scalar) * reward)))
    away, far = distance(ours), distance(scalar)
    return {
        "method": away,
        "baseline": far,
        "effect": far - away,
        "largest mean score at the start": float(jnp.max(jnp.abs(gpm_mean_scores(table)))),
        "score of the first against the second": float(gpm_score(vectors[0], vectors[1])),
    }
