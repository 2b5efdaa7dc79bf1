"""ORION's SLPO on other draws: what a bonus of 0.1 saves and costs, within wider bounds."""

from __future__ import annotations

from evidence.claims._effort_bandit import plain, train
from evidence.claims.orion import ours
from evidence.harness import Claim

CLAIM = Claim(
    method="orion",
    paper="arXiv:2511.22891",
    claim="At alpha 0.1 SLPO under GRPO writes at least a quarter fewer tokens than GRPO on correctness and loses at "
    "most 0.1 of its accuracy.",
    baseline="GRPO on correctness alone",
    measure="the smaller of: share of tokens saved less 0.25, and 0.1 less the accuracy lost",
    seeds=(20, 21, 22, 23, 24, 25, 26, 27),
    threshold=0.0,
    min_share=0.9,
)


def measure(seed: int) -> dict[str, float]:
    (accuracy,), (tokens,) = train(seed, ours, (0.1,))
    (best,), (long,) = train(seed, plain, (0.0,))
    return {
        "method": tokens,
        "baseline": long,
        "effect": min(0.75 - tokens / long, 0.1 - (best - accuracy)),
        "accuracy": accuracy,
        "accuracy without": best,
    }
