"""RPS where every direction has a best answer of its own; registered after `rps`, on seeds of its own."""

from __future__ import annotations

import numpy as np
from evidence.claims._directed_policy import Toy
from evidence.harness import Claim, NotReproduced

from jaxpo.construct.rps.directions import at_angle

REWARDS = np.stack([at_angle(a) for a in np.arange(-90.0, 91.0, 3.0)])
"""Of 61 answers: what one of them has more of one attribute it has less of the other."""

CLAIM = Claim(
    method="rps",
    paper="arXiv:2510.20498",
    claim="Where each direction has an answer of its own: of a policy that DPA trained on at most 10 degrees, RPS "
    "loses to the best of as many answers at 0 degrees and beats it at 40 to 60 degrees.",
    baseline="best of 5 answers for the direction itself",
    measure="RPS' win rate, ties half; effect: the smaller of win rate outside - 0.5 and 0.5 - win rate inside",
    seeds=(5, 6, 7, 8, 9),
    threshold=0.02,
    not_reproduced=NotReproduced(
        "Half of it holds: inside the trained cone neighbours cost, at a win rate of 0.40. Outside, the policy has "
        "learnt one answer for whatever lies beyond the cone's edge, so that all neighbours write the same and nothing "
        "but ties is left; they would help where answers for them still differ.",
        (-0.01, 0.01),
    ),
)

measure = Toy(REWARDS, prompts=1000, n=8, steps=200).measure
