"""GPTQ: column by column, what rounding one has changed is made up for by those that are still to be rounded.

Frantar et al. 2022, arXiv 2210.17323, section 3.3 and algorithm 1: `argmin_Q tr((W - Q) H (W - Q)^T)`, `H = X^T X`.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from jaxpo.ops.grids import Grid, best_scales, codes, rounded

DAMPING = 0.01
"""Of the mean of H's diagonal, added to it."""
BLOCK = 128
"""Columns whose corrections are applied to the rest at once."""


def gptq(w: Float[np.ndarray, "o i"], gram: Float[np.ndarray, "i i"], to: Grid) -> Float[np.ndarray, "o i"]:
    """The rounded matrix.

    Every row is GPTQ's, or the plainly rounded one with the scales of least squared error, whichever has the smaller
    error in the objective: a greedy choice of columns promises nothing by itself, and is so never worse than rounding.

    Args:
      w: inputs last.
      gram: `X^T X` of what it is multiplied with.

    Returns:
      float32, on the grid.
    """
    w = np.asarray(w, np.float32)
    plain = rounded(w, to, best_scales(w, to))
    if not np.any(gram):
        return plain
    found = _columns(w.astype(np.float64), gram, to)
    worse = objective(w, found, gram) > objective(w, plain, gram)
    return np.where(worse[:, None], plain, found)


def objective(
    w: Float[np.ndarray, "o i"], q: Float[np.ndarray, "o i"], gram: Float[np.ndarray, "i i"]
) -> Float[np.ndarray, "o"]:
    """`(w - q) H (w - q)^T` of every row, in float64."""
    difference = np.asarray(w, np.float64) - np.asarray(q, np.float64)
    return np.sum((difference @ gram) * difference, axis=1)


def _columns(w: np.ndarray, gram: np.ndarray, to: Grid) -> np.ndarray:
    """Algorithm 1, with the scales of a group taken when its first column's turn comes."""
    length, group = w.shape[1], to.group or w.shape[1]
    inverse = _inverse_root(gram)
    out = np.zeros_like(w, np.float32)
    scales = best_scales(w.astype(np.float32), to)
    step = max(group, BLOCK // group * group) if to.group else BLOCK
    for start in range(0, length, step):
        end = min(start + step, length)
        errors = np.zeros((w.shape[0], end - start))
        for k in range(start, end):
            at = k // group
            if to.group and k % group == 0:
                scales[:, at] = best_scales(w[:, k : k + group].astype(np.float32), to)[:, 0]
            out[:, k] = _on_scale(w[:, k], scales[:, at], to)
            errors[:, k - start] = (w[:, k] - out[:, k]) / inverse[k, k]
            w[:, k + 1 : end] -= np.outer(errors[:, k - start], inverse[k, k + 1 : end])
        w[:, end:] -= errors @ inverse[start:end, end:]
    return out


def _on_scale(column: np.ndarray, scales: np.ndarray, to: Grid) -> np.ndarray:
    """One value of each row, on the scale of its group."""
    alone = dataclasses.replace(to, group=1)
    values = column.astype(np.float32)[:, None]
    return (codes(values, scales[:, None], alone) * scales[:, None])[:, 0]


def _inverse_root(gram: np.ndarray) -> np.ndarray:
    """Upper triangular U with `U^T U = (H + damping)^-1`; inputs that are always 0 stand for themselves."""
    damped = np.array(gram, np.float64)
    diagonal = np.diag(damped).copy()
    still = diagonal == 0
    damped[np.diag_indices_from(damped)] += np.where(still, diagonal[~still].mean(), DAMPING * diagonal.mean())
    return np.linalg.cholesky(np.linalg.inv(damped)).T
