"""Which of an answer's candidates projects best on the direction that was asked for."""

from __future__ import annotations

import numpy as np


def projections(rewards: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """`s = v . R`, `[..., k, m], [..., m] -> [..., k]`; NaN where a reward is."""
    found: np.ndarray = np.einsum("...km,...m->...k", np.asarray(rewards, np.float64), direction)
    return found


def select(rewards: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Index of the largest `v . R` among the candidates, int `[...]`; the first of equal ones, -1 where there is none.

    Candidates without all their rewards (NaN) failed, and are not chosen.

    Args:
      rewards: `[..., k, m]`.
      direction: `[..., m]`, the one that was asked for, whatever the candidates were written for.

    Reference: arXiv:2510.20498, the selection rule.
    """
    scores = projections(rewards, direction)
    valid = np.isfinite(scores)
    best = np.argmax(np.where(valid, scores, -np.inf), axis=-1)
    return np.where(valid.any(axis=-1), best, -1)
