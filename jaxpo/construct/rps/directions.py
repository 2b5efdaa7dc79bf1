"""Directions of preference: unit vectors of weights, their neighbours, and how a prompt says one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxpo.data.rows.texts import Text

TEXT = "Weigh this answer so, in percent: {weights}."


def unit(v: Sequence[float]) -> np.ndarray:
    """`v / |v|`, float64 `[m]`; ValueError for a vector without direction."""
    vector = np.asarray(v, np.float64)
    size = float(np.linalg.norm(vector))
    if not np.isfinite(size) or size == 0:
        raise ValueError(f"{tuple(v)} has no direction")
    return vector / size


def at_angle(degrees: float) -> np.ndarray:
    """`(cos t, sin t)`: of two attributes, weights of the first and of the second."""
    radians = np.deg2rad(degrees)
    return np.asarray([np.cos(radians), np.sin(radians)])


def angle_between(a: np.ndarray, b: np.ndarray) -> float:
    """Degrees between two unit vectors."""
    # By the chord: the inverse cosine is blind near 0 and 180 degrees.
    half = np.clip(np.linalg.norm(np.asarray(a) - np.asarray(b)) / 2.0, 0.0, 1.0)
    return float(np.rad2deg(2.0 * np.arcsin(half)))


def grid(v: np.ndarray, spread: float, k: int) -> np.ndarray:
    """k evenly spaced directions up to `spread` degrees on either side of v, `[k, 2]`; v itself where k is odd."""
    angle = np.rad2deg(np.arctan2(v[1], v[0]))
    if k == 1 or spread == 0:
        return np.tile(v, (k, 1))
    found = np.stack([at_angle(angle + offset) for offset in np.linspace(-spread, spread, k)])
    if k % 2:
        found[k // 2] = v
    return found


def cap(v: np.ndarray, spread: float, k: int, rng: np.random.Generator) -> np.ndarray:
    """k directions within `spread` degrees of v, `[k, m]`: angle uniform, tangent uniform."""
    tangents = rng.normal(size=(k, len(v)))
    tangents -= np.outer(tangents @ v, v)
    tangents /= np.maximum(np.linalg.norm(tangents, axis=1, keepdims=True), 1e-12)
    angles = np.deg2rad(rng.uniform(0.0, spread, size=(k, 1)))
    return np.cos(angles) * v + np.sin(angles) * tangents


def percent(v: np.ndarray) -> list[int]:
    """`round(100 v)`, as a prompt says it."""
    return [round(100 * float(x)) for x in v]


def conditioned(prompt: Text, names: Sequence[str], weights: Sequence[int], text: str = TEXT) -> Text:
    """The prompt with the weights of the attributes before it: in the system turn, or in a line of its own."""
    said = text.replace("{weights}", ", ".join(f"{name} {w}" for name, w in zip(names, weights, strict=True)))
    if isinstance(prompt, str):
        return f"{said}\n{prompt}"
    if prompt and prompt[0]["role"] == "system":
        return [{**prompt[0], "content": f"{said}\n{prompt[0]['content']}"}, *prompt[1:]]
    return [{"role": "system", "content": said}, *prompt]
