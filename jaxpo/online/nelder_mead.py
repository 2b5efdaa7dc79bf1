"""Nelder and Mead's search for the least of a function that is asked point by point."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

Vertex = np.ndarray
Search = Generator[Vertex, float, Vertex]


@dataclass(frozen=True)
class Simplex:
    """How it moves and when it ends.

    Attributes:
      reflect, expand, contract, shrink: factors.
      same: points that differ by less in every coordinate count as one, and are asked once.
      spread: it ends when, after a shrink, the values' standard deviation is below this.
    """

    reflect: float = 1.0
    expand: float = 2.0
    contract: float = 0.5
    shrink: float = 0.5
    same: float = 5e-3
    spread: float = 0.01


def nelder_mead(first: np.ndarray, how: Simplex) -> Search:
    """Yields the points whose values it is to be sent; returns the best one.

    Args:
      first: `[K + 1, K]` vertices.
    """
    known: list[tuple[Vertex, float]] = []

    def value(x: Vertex) -> Generator[Vertex, float, float]:
        for other, found in known:
            if np.all(np.abs(other - x) < how.same):
                return found
        found = yield x
        known.append((x, found))
        return found

    points = [np.asarray(x, np.float64) for x in first]
    values = []
    for x in points:
        values.append((yield from value(x)))
    while True:
        order = np.argsort(values, kind="stable")
        points, values = [points[i] for i in order], [values[i] for i in order]
        middle = np.mean(points[:-1], axis=0)
        there = middle + how.reflect * (middle - points[-1])
        reflected = yield from value(there)
        if values[0] <= reflected < values[-2]:
            points[-1], values[-1] = there, reflected
            continue
        if reflected < values[0]:
            far = middle + how.expand * (there - middle)
            expanded = yield from value(far)
            points[-1], values[-1] = (far, expanded) if expanded < reflected else (there, reflected)
            continue
        outside = reflected < values[-1]
        near = middle + how.contract * ((there if outside else points[-1]) - middle)
        contracted = yield from value(near)
        if contracted < min(reflected, values[-1]):
            points[-1], values[-1] = near, contracted
            continue
        points = [points[0], *(points[0] + how.shrink * (x - points[0]) for x in points[1:])]
        for i, x in enumerate(points[1:], start=1):
            values[i] = yield from value(x)
        if np.std(values) < how.spread:
            return points[int(np.argmin(values))]
