"""HyPO: the KL on the policy's own samples keeps it near its reference."""

from __future__ import annotations

import jax
from evidence.claims._covered import figures, problem
from evidence.claims.hypo import KL_WEIGHT, _train
from evidence.harness import Claim

CLAIM = Claim(
    method="hypo",
    paper="arXiv:2406.01462",
    claim="Trained to the end on noisy pairs of 8 of 20 responses, HyPO with two samples per prompt stays nearer to "
    "its reference than DPO.",
    baseline="DPO",
    measure="KL(policy || reference) in nats, DPO minus HyPO",
    seeds=(10, 11, 12, 13, 14),
    threshold=1.0,
)


def measure(seed: int) -> dict[str, float]:
    it, key = problem(seed), jax.random.key(seed)
    reward, _, ours = figures(_train(it, key, KL_WEIGHT), it)
    plain_reward, _, plain = figures(_train(it, key, 0.0), it)
    return {
        "method": ours,
        "baseline": plain,
        "effect": plain - ours,
        "reward, HyPO": reward,
        "reward, DPO": plain_reward,
    }
