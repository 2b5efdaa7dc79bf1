"""A smaller learning rate of SFT, for the sake of the DPO that follows."""

from __future__ import annotations

from evidence.claims.implicit_reward import recipe
from evidence.harness import Claim, NotReproduced

CLAIM = Claim(
    method="implicit_reward",
    paper="arXiv:2507.00018",
    claim="Plain SFT at a fifth of the learning rate leads to a better model after DPO.",
    baseline="plain SFT at the full learning rate, then the same DPO",
    measure="mean score of sampled answers after DPO, small rate minus full rate",
    seeds=(0, 1, 2, 3, 4, 5, 6, 7),
    threshold=0.005,
    min_share=0.75,
    not_reproduced=NotReproduced(
        reason="A fifth of the rate leaves this SFT unfinished after 400 steps (0.49 against 0.60), and the DPO that "
        "follows does not make up for it (0.61 against 0.68). A pre-trained language model may know most of what SFT "
        "shows it; this one does not.",
        observed=(-0.11, -0.04),
    ),
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
