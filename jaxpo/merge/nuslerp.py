"""Spherical interpolation by weights: of whole leaves, of rows, or of what two models learned beside a base."""

from __future__ import annotations

import numpy as np

from jaxpo.merge.numerics import Leaf, float32, inner

_SMALL = 1e-8


def nuslerp(
    a: Leaf,
    b: Leaf,
    weights: tuple[float, float],
    base: Leaf | None = None,
    *,
    flatten: bool = True,
    row_wise: bool = False,
) -> np.ndarray:
    """Spherical interpolation at t = w_b / (w_a + w_b), without a threshold on the angle.

        theta = theta_0 + [sin((1 - t) omega) u + sin(t omega) v] / sin(omega),    u = a - theta_0,  v = b - theta_0

    Without a base theta_0 = 0. Exactly collinear (and opposite) vectors are interpolated linearly; weights that sum to
    0 give t = 1/2. The angle is computed in float64.

    Args:
      flatten: one angle for the whole leaf; otherwise one for every vector along the last axis, or along the first
        one with `row_wise` (axes as on disk, [out, in]; the names are mergekit's).

    Reference: mergekit's `nuslerp` (0.1.5); there is no paper. It computes the angle in float32, which for models of
    one run (cosine above 0.9999) is off by percents; the result differs by about 1e-7 of a leaf.
    """
    origin = np.float32(0) if base is None else float32(base)
    u, v = float32(a) - origin, float32(b) - origin
    total = weights[0] + weights[1]
    t = 0.5 if abs(total) < 1e-6 else weights[1] / total
    axis = None if flatten else (0 if row_wise else -1)
    lengths = np.sqrt(inner(u, u, axis) * inner(v, v, axis))
    products = inner(u, v, axis)
    cosine = np.clip(np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0), -1, 1)
    # A vector of length 0 has no direction: linear too, which the angle of 90 degrees would not be.
    straight = ((1 - cosine**2) <= _SMALL**2) | (lengths == 0)
    omega = np.arccos(np.where(straight, 0, cosine))
    of_u = np.where(straight, 1 - t, np.sin((1 - t) * omega) / np.sin(omega)).astype(np.float32)
    of_v = np.where(straight, t, np.sin(t * omega) / np.sin(omega)).astype(np.float32)
    return origin + (of_u * u + of_v * v)
