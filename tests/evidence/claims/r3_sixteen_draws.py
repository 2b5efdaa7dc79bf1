"""R^3 in the mean over draws: without relevance nothing holds an answer on the topic, which is left to chance."""

from __future__ import annotations

from evidence.claims.r3 import measure as measured
from evidence.harness import Claim

CLAIM = Claim(
    method="r3",
    paper="arXiv:2402.03469",
    claim="In the mean over sixteen draws REINFORCE on the product gives more answers that are on the topic, long and "
    "without repetition than on any part of it: where relevance has no say, half of the draws end off the topic.",
    baseline="the best of relevance alone, length alone, and length with the repetition penalty",
    measure="share of answers on the topic with 60 different words, product minus baseline",
    seeds=tuple(range(100, 116)),
    threshold=0.25,
    min_share=0.25,
)


def measure(seed: int) -> dict[str, float]:
    return measured(seed)
