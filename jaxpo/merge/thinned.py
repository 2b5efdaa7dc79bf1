"""Task vectors of which only some entries are kept: masks and models, put together without a vector in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from jaxpo.merge.blocks import blockwise, summed, where
from jaxpo.merge.numerics import Leaf, product
from jaxpo.merge.rescale import Rescale

Combine = Callable[[np.ndarray, Sequence[np.ndarray]], np.ndarray]
"""(block of the base, blocks of the task vectors) -> block of the result."""


def merge_thinned(
    base: Leaf, leaves: Sequence[Leaf], masks: Sequence[np.ndarray], factors: Sequence[float], combine: Combine
) -> np.ndarray:
    """What `combine` makes of tau_i' = f_i m_i (theta_i - theta_0), float32.

    Args:
      masks: m_i, True where an entry is kept.
      factors: f_i, as `factor_of` gives them.
    """

    def fused(origin: np.ndarray, *blocks: np.ndarray) -> np.ndarray:
        models, kept = blocks[: len(leaves)], blocks[len(leaves) :]
        each = zip(models, kept, factors, strict=True)
        return combine(origin, [where(m, (x - origin) * np.float32(f)) for x, m, f in each])

    return blockwise(fused, base, *leaves, *masks)


def factor_of(base: Leaf, leaf: Leaf, mask: np.ndarray, probability: float, rescale: Rescale) -> float:
    """What the kept entries are multiplied by; see `jaxpo.merge.rescale.rescaled`.

    Args:
      probability: that an entry is kept, the same for all.
    """
    if rescale == "none":
        return 1.0
    if rescale == "expected":
        return 1 / probability

    def lengths(x: np.ndarray, origin: np.ndarray, kept: np.ndarray) -> tuple[float, float]:
        magnitude = np.abs(x - origin)
        return float(magnitude.sum(dtype=np.float64)), product(magnitude, kept.astype(np.float32))

    before, after = summed(lengths, leaf, base, mask)
    return before / after if after else 1.0
