"""DARE: drop entries of the task vectors at random and rescale the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from jaxpo.merge.blocks import BLOCK, CORES
from jaxpo.merge.consensus import added, agreeing
from jaxpo.merge.numerics import Leaf
from jaxpo.merge.rescale import Rescale
from jaxpo.merge.thinned import Combine, factor_of, merge_thinned

Draw = Callable[[int], np.random.Generator]
"""Index of a model -> the random numbers of this leaf of it."""


def drawn(shape: tuple[int, ...], density: float, random: np.random.Generator) -> np.ndarray:
    """Mask that keeps each entry with probability `density`: m ~ Bernoulli(density)."""
    mask = np.ones(shape, bool)
    if density < 1:
        flat = mask.reshape(-1)
        # One block after another: the numbers are those of one draw for the whole leaf.
        for start in range(0, flat.size, BLOCK):
            part = flat[start : start + BLOCK]
            np.less(random.random(part.size, np.float32), density, out=part)
    return mask


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

    def combine(origin: np.ndarray, taus: Sequence[np.ndarray]) -> np.ndarray:
        return added(origin, taus, weights, scale, normalize)

    return _dropped(base, leaves, densities, draw, rescale, combine)


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

    def combine(origin: np.ndarray, taus: Sequence[np.ndarray]) -> np.ndarray:
        return agreeing(origin, taus, weights, scale, normalize)

    return _dropped(base, leaves, densities, draw, rescale, combine)


def _dropped(
    base: Leaf, leaves: Sequence[Leaf], densities: Sequence[float], draw: Draw, rescale: Rescale, combine: Combine
) -> np.ndarray:
    """tau' = m tau / density, E[tau'] = tau (or rescaled otherwise), combined."""
    # The draw of a leaf cannot be divided, those of different models can.
    with ThreadPoolExecutor(CORES) as pool:
        masks = list(pool.map(lambda i: drawn(np.shape(base), densities[i], draw(i)), range(len(leaves))))
    parts = zip(leaves, masks, densities, strict=True)
    factors = [1.0 if p >= 1 else factor_of(base, leaf, mask, p, rescale) for leaf, mask, p in parts]
    return merge_thinned(base, leaves, masks, factors, combine)
