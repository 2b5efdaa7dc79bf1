"""rDPO with ten times the pairs of `rdpo_robust`: registered after that claim had failed for want of data."""

from __future__ import annotations

from evidence.claims.rdpo_robust import compare
from evidence.harness import Claim

CLAIM = Claim(
    method="rdpo_robust",
    paper="arXiv:2403.00409",
    claim="Under 30% flipped labels, with 1000 pairs per parameter, rDPO recovers the clean margins better than DPO.",
    baseline="DPO",
    measure="relative error of the reward direction and scale, DPO minus rDPO",
    seeds=(10, 11, 12, 13, 14, 15, 16, 17),
    threshold=0.2,
    min_share=1.0,
)


def measure(seed: int) -> dict[str, float]:
    return compare(seed, 20_000)
