"""RSO's sampler: what it accepts is distributed as the optimal policy, not as SFT samples or their best."""

from __future__ import annotations

import numpy as np
from evidence.claims._tabular_responses import ACCEPTED, BETA, POOL, RESPONSES, problem
from evidence.harness import Claim

from jaxpo.construct.rso import rso_sample

CLAIM = Claim(
    method="rso",
    paper="arXiv:2309.06657",
    claim="Statistical rejection sampling (8 of 64) comes closer to the optimal policy than SFT samples or the 8 best.",
    baseline="the better of 8 SFT samples and the top 8 of 64",
    measure="total variation distance to pi*, baseline minus RSO",
    seeds=(0, 1, 2, 3, 4),
    threshold=0.05,
)

POOLS = 1500


def measure(seed: int, pools: int = POOLS) -> dict[str, float]:
    sft, rewards, best = problem(seed)
    rng = np.random.default_rng((seed, 1))
    counts = {name: np.zeros(RESPONSES) for name in ("RSO", "SFT samples", "top 8")}
    for _ in range(pools):
        pool = rng.choice(RESPONSES, size=POOL, p=sft)
        r = rewards[pool]
        accepted = rso_sample(r, ACCEPTED, BETA, rng.random((ACCEPTED, POOL)))
        drawn = {"RSO": accepted, "SFT samples": np.arange(ACCEPTED), "top 8": np.argsort(-r, kind="stable")[:ACCEPTED]}
        for name, index in drawn.items():
            np.add.at(counts[name], pool[index], 1)
    distance = {name: 0.5 * float(np.abs(c / c.sum() - best).sum()) for name, c in counts.items()}
    baseline = min(distance["SFT samples"], distance["top 8"])
    mean = lambda c: float(c @ rewards / c.sum())  # noqa: E731
    return {
        "method": distance["RSO"],
        "baseline": baseline,
        "effect": baseline - distance["RSO"],
        "SFT samples": distance["SFT samples"],
        "top 8": distance["top 8"],
        "mean reward": mean(counts["RSO"]),
        "mean reward of pi*": float(best @ rewards),
    }
