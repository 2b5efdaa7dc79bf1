"""Themis from too few pairs to learn to add; registered after `themis`, on seeds of its own."""

from __future__ import annotations

from dataclasses import replace

from evidence.claims import themis

CLAIM = replace(
    themis.CLAIM,
    claim="From 500 pairs a reward model that reads a calculator's observation ranks sums of unseen operands; one "
    "without is near chance.",
    seeds=(3, 4, 5),
    not_reproduced=None,
)


def measure(seed: int) -> dict[str, float]:
    return themis.measure(seed, 500)
