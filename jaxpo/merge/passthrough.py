"""One model's leaf as it is, or scaled: what stacked slices of layers are made of."""

from __future__ import annotations

import numpy as np

from jaxpo.merge.numerics import Leaf, float32


def passthrough(leaf: Leaf, scale: float = 1.0) -> np.ndarray:
    """theta = s theta_1; s = 0 for the output projections of a repeated layer makes that layer the identity.

    Reference: mergekit's `passthrough`; depth up-scaling, Kim et al. 2023 (arXiv 2312.15166), section 2.
    """
    return float32(leaf) if scale == 1 else np.float32(scale) * float32(leaf)
