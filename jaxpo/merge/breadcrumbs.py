"""Model Breadcrumbs: keep the middle of every task vector, neither its outliers nor its small change."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxpo.merge.consensus import add, add_agreeing, task_vectors
from jaxpo.merge.numerics import Leaf, largest
from jaxpo.merge.rescale import Rescale, rescaled


def crumbs(delta: np.ndarray, density: float, gamma: float, rescale: Rescale = "none") -> np.ndarray:
    """Drop the `gamma` share of largest entries, then the smallest ones until a `density` share is left.

    Where both do not fit (density + gamma > 1) fewer outliers are dropped. Counts are rounded down.
    """
    if density >= 1:
        return delta
    size = delta.size
    target = int(density * size)
    small = max(0, size - target - int(gamma * size))
    magnitude = np.abs(delta)
    mask = largest(magnitude, size - small) & ~largest(magnitude, size - small - target)
    return rescaled(np.where(mask, delta, np.float32(0)), delta, density, rescale)


def breadcrumbs(
    base: Leaf,
    leaves: Sequence[Leaf],
    weights: Sequence[float],
    densities: Sequence[float],
    gammas: Sequence[float],
    *,
    scale: float = 1.0,
    normalize: bool = False,
    rescale: Rescale = "none",
) -> np.ndarray:
    """Sum of task vectors without their tails: theta = theta_0 + lambda sum_i w_i tau_i'.

    Args:
      densities: share of entries kept, per model and leaf.
      gammas: share of largest entries dropped; the paper's gamma counts from below, so it is 1 minus this one, and its
        beta is 1 - density - gamma.

    Reference: Davari and Belilovsky 2024 (arXiv 2312.06795), section 3, equation 1.
    """
    deltas = _masked(base, leaves, densities, gammas, rescale)
    return add(base, deltas, weights, scale=scale, normalize=normalize)


def breadcrumbs_ties(
    base: Leaf,
    leaves: Sequence[Leaf],
    weights: Sequence[float],
    densities: Sequence[float],
    gammas: Sequence[float],
    *,
    scale: float = 1.0,
    normalize: bool = False,
    rescale: Rescale = "none",
) -> np.ndarray:
    """`breadcrumbs` with TIES' sign election; mergekit's combination, there is no paper."""
    deltas = _masked(base, leaves, densities, gammas, rescale)
    return add_agreeing(base, deltas, weights, scale=scale, normalize=normalize)


def _masked(
    base: Leaf, leaves: Sequence[Leaf], densities: Sequence[float], gammas: Sequence[float], rescale: Rescale
) -> list[np.ndarray]:
    parts = zip(task_vectors(base, leaves), densities, gammas, strict=True)
    return [crumbs(delta, density, gamma, rescale) for delta, density, gamma in parts]
