"""PPD on scenes at a learning rate that uses more of the drift which a model may have."""

from __future__ import annotations

from dataclasses import replace

from evidence.claims import ppd_images
from evidence.harness import Claim, NotReproduced

RATE = 5e-4

CLAIM: Claim = replace(
    ppd_images.CLAIM,
    claim="At five times the learning rate, one model of scenes, of which attention to users alone was trained on "
    "people of four tastes, two by two opposed, draws for strangers of whom four pairs are known what they like better "
    "than the base's in more than 65% of the samples, and 15 points more often than the same branch that sees one "
    "embedding for everybody, after as many steps and at a denoising loss of at most 1.1 times the base's.",
    seeds=(20, 21, 22),
    not_reproduced=NotReproduced(
        "64% on average, at a denoising loss of 1.05 to 1.08 of the base's: 66 to 90% of the samples are brighter or "
        "darker as liked, but by place it is 47 to 53%. Strangers' embeddings do say it: a linear map, fitted to those "
        "of the known people, finds which of left and right they like in nine cases of ten, and which of all four "
        "tastes they have in five or six.",
        (-0.1, -0.001),
    ),
)


def measure(seed: int) -> dict[str, float]:
    return ppd_images.figures(seed, RATE)
