"""TIES: trim, elect a sign, average what agrees."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxpo.merge.blocks import blockwise
from jaxpo.merge.consensus import add_agreeing, task_vectors
from jaxpo.merge.numerics import Leaf, kept_count, largest
from jaxpo.merge.rescale import Rescale, kept_of, rescaled


def trim(delta: np.ndarray, density: float, rescale: Rescale = "none") -> np.ndarray:
    """Keep the `density` share of a leaf's entries that is largest in magnitude, exactly that many, at least one."""
    if density >= 1:
        return delta
    mask = largest(blockwise(np.abs, delta), kept_count(density, delta.size))
    return rescaled(kept_of(delta, mask), delta, density, rescale)


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
    deltas = [trim(delta, p, rescale) for delta, p in zip(task_vectors(base, leaves), densities, strict=True)]
    return add_agreeing(base, deltas, weights, scale=scale, normalize=normalize)
