"""Spherical interpolation of two models."""

from __future__ import annotations

import numpy as np

from jaxpo.merge.numerics import Leaf, dot, float32, norm

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
    x, y = float32(a), float32(b)
    lengths = norm(x) * norm(y)
    cosine = float(np.clip(dot(x, y) / lengths, -1, 1)) if lengths > 0 else 0.0
    if lengths == 0 or abs(cosine) > collinear:
        return np.float32(1 - t) * x + np.float32(t) * y
    omega = np.arccos(cosine)
    return np.float32(np.sin((1 - t) * omega) / np.sin(omega)) * x + np.float32(np.sin(t * omega) / np.sin(omega)) * y
