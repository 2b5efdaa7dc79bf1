"""TIES: trim, elect a sign, average what agrees."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxpo.merge.blocks import blockwise, in_turn
from jaxpo.merge.consensus import agreeing
from jaxpo.merge.numerics import Leaf, kept_count
from jaxpo.merge.rescale import Rescale
from jaxpo.merge.thinned import factor_of, merge_thinned


def trimmed(base: Leaf, leaf: Leaf, density: float) -> np.ndarray:
    """Mask of the `density` share of a task vector's entries that is largest in magnitude.

    Exactly that many, at least one; of equal ones the first in memory order. The vector itself is never in memory.
    """
    return largest_changes(base, leaf, kept_count(density, np.size(leaf)))


def largest_changes(base: Leaf, leaf: Leaf, count: int) -> np.ndarray:
    """Mask of exactly `count` entries in which a leaf is farthest from its base; of equal ones the first in memory."""
    if count <= 0:
        return np.zeros(np.shape(leaf), bool)
    if count >= np.size(leaf):
        return np.ones(np.shape(leaf), bool)
    ordered = blockwise(_magnitude, leaf, base).reshape(-1)
    ordered.partition(ordered.size - count)
    threshold = ordered[ordered.size - count]
    del ordered
    mask = blockwise(lambda x, origin: _magnitude(x, origin) > threshold, leaf, base, dtype=bool)
    flat, missing = mask.reshape(-1), count - int(np.count_nonzero(mask))
    for at, (x, origin) in in_turn(leaf, base):
        equal = np.flatnonzero(_magnitude(x, origin) == threshold)[:missing]
        flat[at][equal] = True
        missing -= len(equal)
        if not missing:
            break
    return mask


def _magnitude(x: np.ndarray, origin: np.ndarray) -> np.ndarray:
    return np.abs(x - origin)


def ties(
    base: Leaf,
    leaves: Sequence[Leaf],
    weights: Sequence[float],
    densities: Sequence[float],
    *,
    scale: float = 1.0,
    normalize: bool = True,
    rescale: Rescale = "none",
) -> np.ndarray:
    """Trim every task vector, elect the sign of each entry, and take the mean of the entries that have it.

        tau_i' = top_k(tau_i),   k = density |tau_i|
        theta = theta_0 + lambda sum_{i in A} w_i tau_i' / sum_{i in A} w_i

    With density 1 and one model it is that model (at lambda = 1).

    Args:
      densities: share of entries kept, per model; of every leaf by itself (the paper trims over the whole model).
      scale: lambda.

    Reference: Yadav et al. 2023 (arXiv 2306.01708), algorithm 1. Trimming per tensor is mergekit's and LFM2's.
    """
    masks = [trimmed(base, leaf, p) for leaf, p in zip(leaves, densities, strict=True)]
    parts = zip(leaves, masks, densities, strict=True)
    factors = [factor_of(base, leaf, mask, p, rescale) for leaf, mask, p in parts]

    def combine(origin: np.ndarray, taus: Sequence[np.ndarray]) -> np.ndarray:
        return agreeing(origin, taus, weights, scale, normalize)

    return merge_thinned(base, leaves, masks, factors, combine)
