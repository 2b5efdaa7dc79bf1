"""Spherical interpolation of two models."""

from __future__ import annotations

import numpy as np

from jaxpo.merge.blocks import blockwise, summed
from jaxpo.merge.numerics import Leaf, product

COLLINEAR = 0.9995
"""From this |cosine| on the arc is a line to float32, and sin(omega) in the denominator loses digits."""


def slerp(a: Leaf, b: Leaf, t: float, *, collinear: float = COLLINEAR) -> np.ndarray:
    """Move from a to b along the arc between their directions.

        theta = sin((1 - t) omega) / sin(omega) a + sin(t omega) / sin(omega) b,    cos(omega) = <a, b> / (|a| |b|)

    The angle is that of the whole leaf; lengths are not normalised, so they change from |a| to |b| on the way.

    Args:
      a, b: arrays of one shape.
      t: 0 gives a, 1 gives b.
      collinear: |cos(omega)| above which (1 - t) a + t b is used, also for opposite directions, which have no arc.

    Reference: Shoemake, SIGGRAPH 1985, section 3.3. mergekit 0.1.5 computes the same, its base model being a.
    """
    xx, yy, xy = summed(lambda x, y: (product(x, x), product(y, y), product(x, y)), a, b)
    lengths = np.sqrt(xx) * np.sqrt(yy)
    cosine = float(np.clip(xy / lengths, -1, 1)) if lengths > 0 else 0.0
    of_a, of_b = 1 - t, t
    if lengths > 0 and abs(cosine) <= collinear:
        omega = np.arccos(cosine)
        of_a, of_b = (np.sin(s * omega) / np.sin(omega) for s in (1 - t, t))
    return blockwise(lambda x, y: np.float32(of_a) * x + np.float32(of_b) * y, a, b)
