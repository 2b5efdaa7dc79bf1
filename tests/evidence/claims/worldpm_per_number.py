"""WorldPM: the power law from twenty pairs per trained number on, at three sizes."""

from __future__ import annotations

import numpy as np
from evidence.claims.worldpm import SIZES, excess, judged
from evidence.harness import Claim

from jaxpo.evaluate.power_law import fit

CLAIM = Claim(
    method="worldpm",
    paper="arXiv:2505.10527",
    claim="From twenty pairs per trained number on, the excess test loss of Bradley-Terry reward models of three sizes "
    "falls as a power law of the number of pairs.",
    baseline="R^2 of 0.95",
    measure="the smallest R^2 of three log-linear fits, minus 0.95; the exponents' intervals must lie above 0",
    seeds=(100, 101, 102),
    threshold=0.01,
    min_share=1.0,
)

PER_NUMBER = (20, 40, 80, 160, 320, 640)


def measure(seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    counts = {size: [size * n for n in PER_NUMBER] for size in SIZES}
    return judged({size: fit(counts[size], excess(rng, size, counts[size])) for size in SIZES})
