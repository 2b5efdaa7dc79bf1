"""SPO on sampled answers of three styles in a circle, none of which share their mean score."""

from __future__ import annotations

from evidence.claims.spo_minimax_styles import measure as measured
from evidence.harness import Claim

CLAIM = Claim(
    method="spo_minimax",
    paper="arXiv:2401.04056",
    claim="Policy gradient on the win rates of eight sampled answers keeps three styles that beat one another in a "
    "circle by 0.9, 0.5 and 0.6; on a scalar score it ends on one style, which its counter-style beats.",
    baseline="the same policy gradient on the expected win rate against the first policy, a scalar score of each style",
    measure="exploitability of the baseline's policy, minus that of SPO's average policy",
    seeds=(100, 101, 102, 103, 104),
    threshold=0.4,
    min_share=1.0,
)


def measure(seed: int) -> dict[str, float]:
    return measured(seed, (0.9, 0.5, 0.6))
