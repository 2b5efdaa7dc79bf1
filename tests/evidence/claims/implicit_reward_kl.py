"""The KL term that f-SFT keeps: at equal steps the fine-tuned model stays nearer to its start.

Registered after `implicit_reward` had shown it beside its own measure, on seeds which these leave out.
"""

from __future__ import annotations

from evidence.claims.implicit_reward import recipe
from evidence.harness import Claim

CLAIM = Claim(
    method="implicit_reward",
    paper="arXiv:2507.00018",
    claim="SFT with the chi-squared divergence moves less far from its start than plain SFT in the same steps.",
    baseline="plain SFT (total variation) at the same learning rate",
    measure="KL(SFT || start) per answer: 1 - chi-squared's / plain's",
    seeds=(10, 11, 12, 13, 14),
    threshold=0.05,
    min_share=1.0,
)


def measure(seed: int) -> dict[str, float]:
    found = recipe(seed, ("chi2", "plain"))
    ours, plain = found["chi2"], found["plain"]
    return {
        "method": ours["kl"],
        "baseline": plain["kl"],
        "effect": 1 - ours["kl"] / plain["kl"],
        "after SFT, chi2": ours["sft"],
        "after SFT, plain": plain["sft"],
    }
