"""WorldPM: under style control a reward model that ignores length is not blamed for a taste of length in the labels."""

from __future__ import annotations

import numpy as np
from evidence.harness import Claim

from jaxpo.evaluate.rewards.style import fit, losses, standardised

CLAIM = Claim(
    method="worldpm",
    paper="arXiv:2505.10527",
    claim="Where labels follow content and length, a model of content alone looks worse than one of length alone "
    "uncontrolled, and better under style control.",
    baseline="a model of length alone",
    measure="the smaller of: uncontrolled, loss of content minus loss of length; controlled, the reverse (nats)",
    seeds=(0, 1, 2, 3, 4, 5),
    threshold=0.01,
    min_share=1.0,
)

PAIRS = 4000


def measure(seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    content, length = rng.normal(size=PAIRS), rng.normal(size=PAIRS)
    better = rng.random(PAIRS) < 1 / (1 + np.exp(-(1.0 * content + 1.8 * length)))
    sign, ones = np.where(better, 1.0, -1.0), np.ones((1, PAIRS))
    z = standardised(np.column_stack([length, np.zeros((PAIRS, 3))]))

    def loss(margin: np.ndarray, controlled: bool) -> float:
        x = np.column_stack([margin, z] if controlled else [margin]) * sign[:, None]
        return float(losses(x, fit(x, ones), ones)[0])

    plain = loss(content, False) - loss(length, False)
    controlled = loss(length, True) - loss(content, True)
    return {
        "method": loss(content, True),
        "baseline": loss(length, True),
        "effect": min(plain, controlled),
        "uncontrolled, content": loss(content, False),
        "uncontrolled, length": loss(length, False),
    }
