"""What the merge methods share: float32 leaves, sums that stay accurate on large leaves, and exact selections."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from jaxpo.merge.blocks import Leaf, summed


def float32(leaf: Leaf) -> np.ndarray:
    """The leaf in float32; not copied when it is that already."""
    return np.asarray(leaf, np.float32)


def product(x: np.ndarray, y: np.ndarray) -> float:
    """sum x y of two blocks, accumulated in float64 without a float64 copy of them."""
    return float(np.einsum("i,i->", x, y, dtype=np.float64))


def dot(a: np.ndarray, b: np.ndarray) -> float:
    """sum a b, accumulated in float64."""
    return summed(lambda x, y: (product(x, y),), a, b)[0]


def inner(a: np.ndarray, b: np.ndarray, axis: int | None) -> np.ndarray:
    """sum a b over one axis, or over all of them, with the summed axes kept; summed in float64."""
    return np.asarray(np.sum(a * b, axis=axis, keepdims=True, dtype=np.float64))


def norm(a: np.ndarray) -> float:
    """sqrt(sum a^2)."""
    return float(np.sqrt(dot(a, a)))


def largest(values: np.ndarray, count: int) -> np.ndarray:
    """Mask of exactly `count` largest entries; of equal ones the first in memory order."""
    flat = values.reshape(-1)
    if count <= 0:
        return np.zeros(values.shape, bool)
    if count >= flat.size:
        return np.ones(values.shape, bool)
    threshold = np.partition(flat, flat.size - count)[flat.size - count]
    mask = flat > threshold
    mask[np.flatnonzero(flat == threshold)[: count - int(mask.sum())]] = True
    return mask.reshape(values.shape)


def kept_count(density: float, size: int) -> int:
    """How many of `size` entries a density keeps: rounded down, never none."""
    return min(size, max(1, int(density * size))) if size else 0


def generator(seed: int, name: str, model: int) -> np.random.Generator:
    """Random numbers for one leaf of one model: the same wherever, whenever and beside whatever they are drawn."""
    digest = hashlib.sha256(f"{seed}/{model}/{name}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def per_model(value: float | Sequence[float], count: int) -> tuple[float, ...]:
    """One number for every model, or the given one of each."""
    return (float(value),) * count if isinstance(value, int | float) else tuple(map(float, value))
