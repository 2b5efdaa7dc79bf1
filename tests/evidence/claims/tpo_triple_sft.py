"""Triple preference optimisation against fine-tuning on its gold responses, from a model that had no SFT.

Registered after `tpo_triple` had been measured on two seeds, which these seeds leave out.
"""

from __future__ import annotations

from evidence.claims.tpo_triple import recipe
from evidence.harness import Claim

CLAIM = Claim(
    method="tpo_triple",
    paper="arXiv:2405.16681",
    claim="At equal steps, TPO on (gold, chosen, rejected) answers better than SFT on the gold responses.",
    baseline="SFT on the same gold responses",
    measure="mean score of sampled answers, TPO minus SFT",
    seeds=(10, 11, 12, 13, 14),
    threshold=0.01,
    min_share=0.8,
)


def measure(seed: int) -> dict[str, float]:
    found = recipe(seed, ("TPO", "SFT"))
    return {"method": found["TPO"], "baseline": found["SFT"], "effect": found["TPO"] - found["SFT"]}
