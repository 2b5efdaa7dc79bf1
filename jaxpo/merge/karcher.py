"""Karcher mean: the centre of the models' directions on the sphere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxpo.merge.linear import linear
from jaxpo.merge.numerics import Leaf, dot, float32, norm


def karcher(leaves: Sequence[Leaf], weights: Sequence[float], *, max_iter: int = 10, tol: float = 1e-5) -> np.ndarray:
    """The direction whose squared arc lengths to all models sum to the least, with their mean length.

        theta = (sum_i w_i |theta_i|) m,   m = argmin_{|m| = 1} sum_i w_i angle(m, theta_i)^2

    by fixed-point steps m <- exp_m(sum_i w_i log_m(u_i)) from the normalised mean of u_i = theta_i / |theta_i|. Two
    models give their arc's point at w_2, which is `slerp` up to the length.

    Args:
      weights: summing to 1. mergekit has equal ones only.
      max_iter: steps at most.
      tol: the length of a step, or of a model's leaf, that counts as 0.

    Reference: Karcher 1977, Comm. Pure Appl. Math. 30, equation 1.1; mergekit's `karcher` (0.1.5).
    """
    arrays = [float32(leaf) for leaf in leaves]
    if len(arrays) == 1:
        return arrays[0]
    lengths = [norm(x) for x in arrays]
    usable = [i for i, length in enumerate(lengths) if length > tol]
    if not usable:
        return np.zeros_like(arrays[0])
    share = sum(weights[i] for i in usable)
    units = [arrays[i] / np.float32(lengths[i]) for i in usable]
    shares = [weights[i] / share for i in usable]
    mean = linear(units, shares)
    middle = units[0] if norm(mean) < tol else mean / np.float32(norm(mean))
    for _ in range(max_iter):
        step = linear([_log(middle, unit, tol) for unit in units], shares)
        length = norm(step)
        if length < tol:
            break
        middle = np.float32(np.cos(length)) * middle + np.float32(np.sin(length) / length) * step
        middle /= np.float32(norm(middle))
    return np.float32(sum(w * length for w, length in zip(weights, lengths, strict=True))) * middle


def _log(at: np.ndarray, unit: np.ndarray, tol: float) -> np.ndarray:
    """The tangent vector at `at` that leads to `unit` along the sphere."""
    cosine = float(np.clip(dot(at, unit), -1, 1))
    angle = np.arccos(cosine)
    if angle < tol or np.pi - angle < tol:
        # Nothing to go, or opposite: no direction leads there more than another.
        return np.zeros_like(at)
    return np.float32(angle / np.sin(angle)) * (unit - np.float32(cosine) * at)
