"""DELLA: drop entries at random, the smaller ones more often."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxpo.merge.consensus import add, add_agreeing, task_vectors
from jaxpo.merge.dare import Draw
from jaxpo.merge.numerics import Leaf
from jaxpo.merge.rescale import Rescale, rescaled


def keep_probability(delta: np.ndarray, density: float, epsilon: float) -> np.ndarray:
    """Probability that each entry is kept: linear in its magnitude's rank within the row.

        p_i = density - epsilon / 2 + epsilon (r_i - 1) / (n - 1),   r_i in 1..n from small to large

    A row is the last axis of a leaf as it lies on disk (all inputs of one output); a row of one entry has p = density.
    The mean over a row is the density exactly; the paper's epsilon r_i / n is off by epsilon / 2n.

    Reference: Deep et al. 2024 (arXiv 2406.11617), section 3.1 (MagPrune).
    """
    n = delta.shape[-1] if delta.ndim else 1
    if n == 1:
        return np.full(delta.shape, density, np.float32)
    order = np.argsort(np.abs(delta), axis=-1, kind="stable")
    steps = np.linspace(density - epsilon / 2, density + epsilon / 2, n, dtype=np.float32)
    probability = np.empty(delta.shape, np.float32)
    np.put_along_axis(probability, order, np.broadcast_to(steps, delta.shape), axis=-1)
    return probability


def magprune(
    delta: np.ndarray,
    density: float,
    epsilon: float,
    random: np.random.Generator,
    rescale: Rescale = "expected",
) -> np.ndarray:
    """Keep each entry with its `keep_probability` and divide it by that."""
    if density >= 1:
        return delta
    probability = keep_probability(delta, density, epsilon)
    mask = random.random(delta.shape, np.float32) < probability
    return rescaled(np.where(mask, delta, np.float32(0)), delta, probability, rescale)


def della_linear(
    base: Leaf,
    leaves: Sequence[Leaf],
    weights: Sequence[float],
    densities: Sequence[float],
    epsilons: Sequence[float],
    draw: Draw,
    *,
    scale: float = 1.0,
    normalize: bool = False,
    rescale: Rescale = "expected",
) -> np.ndarray:
    """Task arithmetic with task vectors thinned by magnitude: theta = theta_0 + lambda sum_i w_i tau_i'.

    Args:
      densities: mean probability of being kept, per model.
      epsilons: width of the window of probabilities, the paper's; mergekit's `epsilon` is half of it.
      draw: random numbers per model.
      rescale: "expected" = 1 / p_i, the paper's; "l1" = mergekit's.

    Reference: Deep et al. 2024 (arXiv 2406.11617), without the election. mergekit 0.1.5 ranks along axis 1, which is
    of length 1 in the convolution kernels [D, 1, k] of LFM2: its probabilities are NaN there and it stops.
    """
    deltas = _pruned(base, leaves, densities, epsilons, draw, rescale)
    return add(base, deltas, weights, scale=scale, normalize=normalize)


def della(
    base: Leaf,
    leaves: Sequence[Leaf],
    weights: Sequence[float],
    densities: Sequence[float],
    epsilons: Sequence[float],
    draw: Draw,
    *,
    scale: float = 1.0,
    normalize: bool = True,
    rescale: Rescale = "expected",
) -> np.ndarray:
    """Drop, elect, fuse: as `della_linear`, with TIES' election and the mean of what agrees.

    Reference: Deep et al. 2024 (arXiv 2406.11617), section 3.
    """
    deltas = _pruned(base, leaves, densities, epsilons, draw, rescale)
    return add_agreeing(base, deltas, weights, scale=scale, normalize=normalize)


def _pruned(
    base: Leaf,
    leaves: Sequence[Leaf],
    densities: Sequence[float],
    epsilons: Sequence[float],
    draw: Draw,
    rescale: Rescale,
) -> list[np.ndarray]:
    parts = zip(task_vectors(base, leaves), densities, epsilons, strict=True)
    return [magprune(delta, p, width, draw(i), rescale) for i, (delta, p, width) in enumerate(parts)]
