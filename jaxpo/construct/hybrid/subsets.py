"""Subsets of diverse composition, whose human labels proxy models are trained with."""

from __future__ import annotations

import numpy as np


def random_fill(has: np.ndarray, capacity: int, rng: np.random.Generator) -> np.ndarray:
    """Visit features in random order, their instances in random order, and take unseen ones until it is full.

    Instances without any feature are never taken.

    Args:
      has: B, `[N, F]`.

    Returns:
      m, bool `[N]`, with at most `capacity` True.
    """
    mask, left = np.zeros(len(has), bool), capacity
    for feature in rng.permutation(has.shape[1]):
        unseen = rng.permutation(np.flatnonzero(has[:, feature] & ~mask))[:left]
        mask[unseen] = True
        left -= len(unseen)
    return mask


def random_subsets(has: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """n masks, `[n, N]`, whose capacities are drawn from 1 ... N."""
    return np.stack([random_fill(has, int(rng.integers(1, len(has) + 1)), rng) for _ in range(n)])


def counts(has: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """phi(m) = B^T m: how many instances of the mask have each feature, `[F]` or `[n, F]`."""
    return mask.astype(np.float64) @ has.astype(np.float64)
