"""LongAlign's reward stage: how far apart the features of captions lie in what is their own."""

from __future__ import annotations

from evidence.claims.longalign import stages
from evidence.harness import Claim

CLAIM = Claim(
    method="longalign",
    paper="arXiv:2410.11817",
    claim="After 100 steps along the linear route, features drawn for one of 16 captions have a larger gap between the "
    "text-relevant score of their own caption and of others with omega 0.3 than with omega 1, and than the base's.",
    baseline="omega 1, the score itself",
    measure="mean text-relevant score of pairs minus that of non-pairs, omega 0.3 minus omega 1; -1 where it is not "
    "above the base's",
    seeds=(5, 6, 7, 8, 9),
    threshold=0.02,
)


def measure(seed: int) -> dict[str, float]:
    of_base, ours, theirs = (float(found[1]) for found in stages(seed))
    return {
        "method": ours,
        "baseline": theirs,
        "effect": ours - theirs if ours > of_base else -1.0,
        "the base": of_base,
    }
