"""How task vectors become one: their weighted sum, or the sum of those that agree with an elected sign."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from jaxpo.merge.blocks import blockwise, where
from jaxpo.merge.linear import linear, weighted
from jaxpo.merge.numerics import Leaf


def task_vectors(base: Leaf, leaves: Sequence[Leaf]) -> Iterator[np.ndarray]:
    """tau_i = theta_i - theta_0, float32, one at a time: a method that thins them out never holds all of them."""
    return (blockwise(np.subtract, leaf, base) for leaf in leaves)


def plain_sum(deltas: Sequence[np.ndarray]) -> np.ndarray:
    """sum_i tau_i."""
    return linear(deltas, [1.0] * len(deltas))


def add(
    base: Leaf, deltas: Sequence[np.ndarray], weights: Sequence[float], *, scale: float = 1.0, normalize: bool = False
) -> np.ndarray:
    """theta = theta_0 + lambda sum_i w_i tau_i [/ sum_i w_i].

    Args:
      scale: lambda.
      normalize: divide by the sum of the weights (unless that is 0).
    """
    return blockwise(lambda origin, *taus: added(origin, taus, weights, scale, normalize), base, *deltas)


def added(
    origin: np.ndarray, taus: Sequence[np.ndarray], weights: Sequence[float], scale: float, normalize: bool
) -> np.ndarray:
    """`add` of float32 blocks."""
    total = weighted(taus, weights)
    divisor = sum(weights)
    if normalize and abs(divisor) >= 1e-8:
        total /= np.float32(divisor)
    return _onto(origin, total, scale)


def add_agreeing(
    base: Leaf,
    deltas: Sequence[np.ndarray],
    weights: Sequence[float],
    *,
    scale: float = 1.0,
    normalize: bool = True,
    positive: np.ndarray | None = None,
) -> np.ndarray:
    """Elect a sign per entry and add only what agrees with it.

        gamma = sign(sum_i w_i tau_i),   A = {i : sign(w_i tau_i) = gamma}
        theta = theta_0 + lambda sum_{i in A} w_i tau_i [/ sum_{i in A} w_i]

    Entries that were trimmed to 0 agree with no sign, so the mean is over those that speak. A sum of exactly 0 elects
    +, as in mergekit; the paper leaves it open.

    Args:
      normalize: divide by the weights of the agreeing (the disjoint mean), where they do not sum to 0.
      positive: the elected signs (True = +), where something else than the weighted sum elects them.

    Reference: Yadav et al. 2023 (arXiv 2306.01708), section 4, steps 2 and 3.
    """

    def fused(origin: np.ndarray, *blocks: np.ndarray) -> np.ndarray:
        taus = blocks[: len(deltas)]
        elected = None if positive is None else blocks[-1]
        return agreeing(origin, taus, weights, scale, normalize, elected)

    return blockwise(fused, base, *deltas, *([] if positive is None else [positive]))


def agreeing(
    origin: np.ndarray,
    taus: Sequence[np.ndarray],
    weights: Sequence[float],
    scale: float,
    normalize: bool,
    elected: np.ndarray | None = None,
) -> np.ndarray:
    """`add_agreeing` of float32 blocks."""
    elected = weighted(taus, weights) >= 0 if elected is None else elected
    total, divisor = np.zeros(elected.shape, np.float32), np.zeros(elected.shape, np.float32)
    for tau, weight in zip(taus, weights, strict=True):
        # The sign of w tau is that of tau, or its opposite.
        up, down = (tau > 0, tau < 0) if weight > 0 else (tau < 0, tau > 0)
        agrees = (elected & up) | (~elected & down) if weight else np.zeros(tau.shape, bool)
        total += where(agrees, np.float32(weight) * tau)
        divisor += np.multiply(agrees, np.float32(weight), dtype=np.float32)
    if normalize:
        divisor[divisor == 0] = 1
        total /= divisor
    return _onto(origin, total, scale)


def _onto(origin: np.ndarray, total: np.ndarray, scale: float) -> np.ndarray:
    """theta_0 + lambda total, in place of the total."""
    total *= np.float32(scale)
    total += origin
    return total
