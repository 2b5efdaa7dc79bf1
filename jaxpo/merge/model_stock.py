"""Model Stock: how far to trust the mean of fine-tuned models, from the angles between them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from jaxpo.merge.consensus import task_vectors
from jaxpo.merge.linear import linear
from jaxpo.merge.numerics import Leaf, float32, inner


def model_stock(base: Leaf, leaves: Sequence[Leaf], *, filter_wise: bool = False) -> np.ndarray:
    """Interpolate between the base and the mean of N models by their agreement.

        theta = t mean_i theta_i + (1 - t) theta_0,   t = N c / (1 + (N - 1) c),   c = mean_{i<j} cos(tau_i, tau_j)

    Parallel task vectors give the mean (t = 1), orthogonal ones the base (t = 0). Where 1 + (N - 1) c = 0 no finite
    estimate exists and the base is kept.

    Args:
      leaves: of two models or more.
      filter_wise: one t for every row (last axis as on disk) instead of one for the leaf.

    Reference: Jang, Yun and Han 2024 (arXiv 2403.19522), equations 2 and 5. A task vector of length 0 has cosine 0
    here; mergekit 0.1.5 does the same, but also shrinks the cosine where |tau_i| |tau_j| < 1e-6, an absolute bound
    which small leaves of gently tuned models meet.
    """
    axis = -1 if filter_wise else None
    deltas = list(task_vectors(base, leaves))
    lengths = [np.sqrt(inner(d, d, axis)) for d in deltas]
    cosines = []
    for i, j in itertools.combinations(range(len(deltas)), 2):
        product = inner(deltas[i], deltas[j], axis)
        both = lengths[i] * lengths[j]
        cosines.append(np.clip(np.divide(product, both, out=np.zeros_like(product), where=both > 0), -1, 1))
    cosine = np.mean(cosines, axis=0)
    count = len(leaves)
    denominator = 1 + (count - 1) * cosine
    regular = np.abs(denominator) >= 1e-6
    t = np.where(regular, count * cosine / np.where(regular, denominator, 1), 0)
    return float32(base) + t.astype(np.float32) * linear(deltas, [1 / count] * count)
