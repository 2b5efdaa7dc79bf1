"""DLER's merge: the largest changes of one model, weakened, on the base that it was trained from."""

from __future__ import annotations

import numpy as np

from jaxpo.merge.blocks import blockwise
from jaxpo.merge.numerics import Leaf
from jaxpo.merge.ties import largest_changes


def update_selective(base: Leaf, leaf: Leaf, *, density: float = 0.25, scale: float = 0.7) -> np.ndarray:
    """The base with a share of its entries moved towards the model, those that the model moved farthest.

        theta = theta_0 + m scale (theta_RL - theta_0),    m = 1 on the round(density n) largest |theta_RL - theta_0|

    Args:
      density: share of the entries, of every leaf by itself (the paper does not say whether of the whole model).
      scale: lambda.

    Returns:
      float32; entries outside m are the base's, bit for bit. The model at density 1 and scale 1, the base at either 0.

    Reference: Liu et al. 2025 (arXiv 2510.15110), section 4; its code is not released.
    """
    mask = largest_changes(base, leaf, round(density * np.size(leaf)))
    toward, keep = np.float32(scale), np.float32(1.0 - scale)

    def moved(origin: np.ndarray, x: np.ndarray, m: np.ndarray) -> np.ndarray:
        return np.where(m, keep * origin + toward * x, origin)

    return blockwise(moved, base, leaf, mask)
