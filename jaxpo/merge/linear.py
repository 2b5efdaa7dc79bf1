"""Weighted average of one leaf."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxpo.merge.blocks import blockwise
from jaxpo.merge.numerics import Leaf


def linear(leaves: Sequence[Leaf], weights: Sequence[float]) -> np.ndarray:
    """Weighted sum of the same leaf of several models.

        theta = sum_i w_i theta_i

    Args:
      leaves: arrays of one shape.
      weights: as they are used; a soup's sum to 1.

    Returns:
      float32, accumulated in float32. One leaf with weight 1 comes back with its very values.

    Reference: Wortsman et al. 2022 (arXiv 2203.05482), section 2; LFM2 Technical Report (arXiv 2511.23404).
    """
    return blockwise(lambda *blocks: weighted(blocks, weights), *leaves)


def weighted(blocks: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """sum_i w_i x_i of float32 blocks."""
    total = np.zeros(blocks[0].shape, np.float32)
    for block, weight in zip(blocks, weights, strict=True):
        total += np.float32(weight) * block
    return total
