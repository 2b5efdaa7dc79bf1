"""Whitening of what lies under a mask, by moments that add up over the parts of a rollout.

Advantages are whitened over a whole rollout. Moments of a micro-batch would depend on how the step is cut, so the
source whitens them once, in float64 numpy, before anything is packed; a program that must do it itself adds up the
moments of all its parts first and whitens with the sum.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from jaxtyping import Bool, Float

from jaxpo.losses.recurrence import A, namespace, under

SMALLEST = 1e-8
"""Added to the variance (verl's)."""


class Moments(NamedTuple):
    """Of numbers that may lie in several parts.

    Attributes:
      count: of them.
      mean: 0 of none.
      squares: sum of the squared differences from the mean.
    """

    count: Any
    mean: Any
    squares: Any


def masked_moments(x: Float[A, "..."], mask: Bool[A, "..."]) -> Moments:
    """Moments of what lies under the mask; the rest may hold anything, NaN included."""
    xp = namespace(x)
    on, x = xp.asarray(mask, dtype=bool), under(mask, x)
    count = xp.sum(on.astype(x.dtype))
    mean = xp.sum(x) / xp.maximum(count, 1.0)
    return Moments(count, mean, xp.sum(under(on, x - mean) ** 2))


def merged_moments(a: Moments, b: Moments) -> Moments:
    """Moments of two parts together, by the update of Chan, Golub and LeVeque (1979); in any order, to rounding."""
    count = a.count + b.count
    share = b.count / namespace(count).maximum(count, 1.0)
    apart = b.mean - a.mean
    return Moments(count, a.mean + apart * share, a.squares + b.squares + apart**2 * a.count * share)


def whiten(
    x: Float[A, "..."], mask: Bool[A, "..."], moments: Moments | None = None, *, shift_mean: bool = True
) -> Float[A, "..."]:
    """Mean 0 and variance 1 over what lies under the mask.

        y = (x - mean) / sqrt(var + 1e-8),    var with n - 1

    Args:
      x: `[...]`, numpy or jax.
      mask: `[...]`; outside it x may hold anything, NaN included.
      moments: of the whole rollout where x is a part of it; None = those of x.
      shift_mean: False adds the mean again.

    Returns:
      `[...]` of the kind given, 0 outside the mask; of one number or equal ones, 0 (or their mean).

    Reference: Schulman et al. 2017 in the form of OpenAI's baselines; epsilon and n - 1 as verl's.
    """
    xp, found = namespace(x), masked_moments(x, mask) if moments is None else moments
    variance = found.squares / xp.maximum(found.count - 1.0, 1.0)
    centred = under(mask, x) - found.mean
    scaled = centred / xp.sqrt(variance + SMALLEST)
    return under(mask, scaled if shift_mean else scaled + found.mean)
