"""DARE: drop entries of the task vectors at random and rescale the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from jaxpo.merge.blocks import CORES, in_turn
from jaxpo.merge.consensus import add, add_agreeing, task_vectors
from jaxpo.merge.numerics import Leaf
from jaxpo.merge.rescale import Rescale, rescaled

Draw = Callable[[int], np.random.Generator]
"""Index of a model -> the random numbers of this leaf of it."""


def drop(delta: np.ndarray, density: float, random: np.random.Generator, rescale: Rescale = "expected") -> np.ndarray:
    """Keep each entry with probability `density`.

    tau' = m tau / density,   m ~ Bernoulli(density),   E[tau'] = tau
    """
    if density >= 1:
        return delta
    kept = np.empty(delta.shape, np.float32)
    out = kept.reshape(-1)
    # One block after another: the numbers are those of one draw for the whole leaf.
    for at, (tau,) in in_turn(delta):
        out[at] = np.where(random.random(tau.size, np.float32) < density, tau, np.float32(0))
    return rescaled(kept, delta, density, rescale)


def dare_linear(
    base: Leaf,
    leaves: Sequence[Leaf],
    weights: Sequence[float],
    densities: Sequence[float],
    draw: Draw,
    *,
    scale: float = 1.0,
    normalize: bool = False,
    rescale: Rescale = "expected",
) -> np.ndarray:
    """Task arithmetic with randomly thinned task vectors: theta = theta_0 + lambda sum_i w_i tau_i'.

    Args:
      densities: 1 - p, p the paper's drop rate; per model.
      draw: random numbers per model; `jaxpo.merge.numerics.generator` makes them from seed, leaf and model.
      rescale: "expected" = 1 / (1 - p), the paper's; "l1" = mergekit's.

    Reference: Yu et al. 2024 (arXiv 2311.03099), equations 1 to 3.
    """
    deltas = _dropped(base, leaves, densities, draw, rescale)
    return add(base, deltas, weights, scale=scale, normalize=normalize)


def dare_ties(
    base: Leaf,
    leaves: Sequence[Leaf],
    weights: Sequence[float],
    densities: Sequence[float],
    draw: Draw,
    *,
    scale: float = 1.0,
    normalize: bool = False,
    rescale: Rescale = "expected",
) -> np.ndarray:
    """Sign election and disjoint merge of randomly thinned task vectors; arguments as `dare_linear`.

    Reference: Yu et al. 2024 (arXiv 2311.03099), section 3.2, with TIES' last two steps.
    """
    deltas = _dropped(base, leaves, densities, draw, rescale)
    return add_agreeing(base, deltas, weights, scale=scale, normalize=normalize)


def _dropped(
    base: Leaf, leaves: Sequence[Leaf], densities: Sequence[float], draw: Draw, rescale: Rescale
) -> list[np.ndarray]:
    def dropped(i: int) -> np.ndarray:
        (delta,) = task_vectors(base, leaves[i : i + 1])
        return drop(delta, densities[i], draw(i), rescale)

    # The draw of a leaf cannot be divided, those of different models can.
    with ThreadPoolExecutor(CORES) as pool:
        return list(pool.map(dropped, range(len(leaves))))
