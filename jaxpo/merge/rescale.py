"""What the survivors of a sparsified task vector are multiplied by."""

from __future__ import annotations

from typing import Literal

import numpy as np

from jaxpo.merge.blocks import blockwise, summed

Rescale = Literal["none", "expected", "l1"]


def rescaled(kept: np.ndarray, delta: np.ndarray, probability: np.ndarray | float, how: Rescale) -> np.ndarray:
    """The kept entries, scaled so that the vector keeps its mean or its length.

        none       m tau
        expected   m tau / p,   p the probability that an entry is kept: E[result] = tau
        l1         m tau |tau|_1 / |m tau|_1

    Args:
      kept: m tau, the task vector with zeros.
      delta: tau, the task vector before.
      probability: of every entry, or of all.

    Reference: "expected" is the papers' (DARE arXiv 2311.03099, eq. 2; DELLA arXiv 2406.11617, section 3.1). "l1" is
    what mergekit 0.1.5 means by `rescale: true`: the length of this draw rather than the expectation over draws.
    """
    if how == "none":
        return kept
    if how == "expected":
        return kept / np.asarray(probability, np.float32)
    before, after = summed(lambda tau, left: (_length(tau), _length(left)), delta, kept)
    return kept if after == 0 else blockwise(lambda block: block * np.float32(before / after), kept)


def _length(block: np.ndarray) -> float:
    """|x|_1."""
    return float(np.abs(block).sum(dtype=np.float64))
