"""R^3 from a policy that strays: without relevance in the reward nothing brings an answer back to its topic."""

from __future__ import annotations

from evidence.claims.r3 import measure as measured
from evidence.harness import Claim, NotReproduced

CLAIM = Claim(
    method="r3",
    paper="arXiv:2402.03469",
    claim="From a policy for which an answer off the topic is e^2 times as likely, REINFORCE on the product ends with "
    "answers that are on the topic, long and without repetition; on no part of it alone does it.",
    baseline="the best of relevance alone, length alone, and length with the repetition penalty",
    measure="share of answers on the topic with 60 different words, product minus baseline",
    seeds=(100, 101, 102, 103, 104),
    threshold=0.3,
    min_share=1.0,
    not_reproduced=NotReproduced(
        "without relevance all draws end off the topic, as claimed; but the best answer, worth nearly three times the "
        "next, is drawn once in 158 at the start, and REINFORCE, which explores no further, has settled on others by "
        "then",
        (-0.001, 0.001),
    ),
)


def measure(seed: int) -> dict[str, float]:
    return measured(seed, strays=2.0)
