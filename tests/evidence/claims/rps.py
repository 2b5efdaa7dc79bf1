"""RPS: neighbours of a direction help where it was not trained, and hurt where it was."""

from __future__ import annotations

import numpy as np
from evidence.claims._directed_policy import Toy
from evidence.harness import Claim, NotReproduced

LARGEST = 8

CLAIM = Claim(
    method="rps",
    paper="arXiv:2510.20498",
    claim="Of a policy that DPA trained on directions of at most 10 degrees, RPS loses to the best of as many answers "
    "at 0 degrees and beats it at 40 to 60 degrees.",
    baseline="best of 5 answers for the direction itself",
    measure="RPS' win rate, ties half; effect: the smaller of win rate outside - 0.5 and 0.5 - win rate inside",
    seeds=(0, 1, 2, 3, 4),
    threshold=0.02,
    not_reproduced=NotReproduced(
        "Of whole numbers of keywords the largest is best for all trained directions, so that the policy learns one "
        "answer and no direction: its neighbours write the same, and nearly all comparisons are ties. Answers of "
        "their own for every direction: rps_angles.",
        (-0.01, 0.01),
    ),
)

REWARDS = np.array([(k, n) for k in range(LARGEST + 1) for n in range(LARGEST + 1) if k**2 + n**2 <= LARGEST**2], float)
"""Keywords and length of every answer that there is: more of one leaves less room for the other."""

measure = Toy(REWARDS, prompts=4000, n=16, steps=300).measure
