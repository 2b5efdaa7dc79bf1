"""A smaller learning rate of SFT, for the sake of the DPO that follows."""

from __future__ import annotations

from evidence.claims.implicit_reward import recipe
from evidence.harness import Claim

CLAIM = Claim(
    method="implicit_reward",
    paper="arXiv:2507.00018",
    claim="Plain SFT at a fifth of the learning rate leads to a better model after DPO.",
    baseline="plain SFT at the full learning rate, then the same DPO",
    measure="mean score of sampled answers after DPO, small rate minus full rate",
    seeds=(0, 1, 2, 3, 4, 5, 6, 7),
    threshold=0.005,
    min_share=0.75,
)


def measure(seed: int) -> dict[str, float]:
    found = recipe(seed)
    return {
        "method": found["slow"]["dpo"],
        "baseline": found["plain"]["dpo"],
        "effect": found["slow"]["dpo"] - found["plain"]["dpo"],
        "KL(SFT || start), small rate": found["slow"]["kl"],
        "after SFT, small rate": found["slow"]["sft"],
        "after SFT, full rate": found["plain"]["sft"],
    }
