"""VPO offline: pessimism keeps a policy on the responses that the pairs are about."""

from __future__ import annotations

import jax.numpy as jnp
from evidence.claims._covered import DIMENSIONS, figures, logps, problem
from evidence.claims._features import adam
from evidence.harness import Claim

from jaxpo.losses import dpo, vpo

BETA, ALPHA, STEPS, RATE = 0.1, 1.0, 2000, 0.05

CLAIM = Claim(
    method="vpo",
    paper="arXiv:2405.19320",
    claim="Trained to the end on noisy pairs of 8 of 20 responses, of which the other 12 are bad, offline VPO that is "
    "calibrated by the chosen responses has a larger reward than DPO.",
    baseline="DPO",
    measure="mean true reward of the policy, VPO minus DPO",
    seeds=(0, 1, 2, 3, 4),
    threshold=0.5,
)


def _sides(theta, it):
    own, reference = logps(theta, it.features), logps(jnp.zeros_like(theta), it.features)
    return (own[it.chosen], own[it.rejected], reference[it.chosen], reference[it.rejected])


def _vpo(theta, it):
    sides = _sides(theta, it)
    pair, value = vpo(*sides, sides[0], sides[2], form="offline", beta=BETA, alpha=ALPHA)
    return jnp.mean(pair) + jnp.mean(value)


_pessimistic = adam(_vpo, STEPS, RATE)
_plain = adam(lambda theta, it: jnp.mean(dpo(*_sides(theta, it), beta=BETA)), STEPS, RATE)


def measure(seed: int) -> dict[str, float]:
    it, start = problem(seed), jnp.zeros(DIMENSIONS)
    ours, uncovered, _ = figures(_pessimistic(start, it), it)
    plain, lost, _ = figures(_plain(start, it), it)
    return {
        "method": ours,
        "baseline": plain,
        "effect": ours - plain,
        "mass on uncovered responses, VPO": uncovered,
        "mass on uncovered responses, DPO": lost,
    }
