"""What a picture shows, read off its pixels, and how far that is what the caption says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxpo.corpora.scenes.scene import COLOURS, PLACES, Scene

NOTHING = -1
SATURATION = 0.25
"""Least difference between the largest and the smallest of red, green and blue of a pixel that is no background."""
SHARE = 3 / 16
"""A quadrant shows a thing from this share of coloured pixels on; the smallest shape has 5/16."""


def reading(images: np.ndarray) -> np.ndarray:
    """The colour that each quadrant shows: int `[N, 4]`, the number of a colour, or `NOTHING`.

    A pixel has the colour whose direction is nearest to its own, if it is saturated; a quadrant has the colour of most
    of its pixels.

    Args:
      images: `[N, size, size, 3]` in [-1, 1]; values outside are clipped.
    """
    shown = (np.clip(np.asarray(images, np.float32), -1, 1) + 1) / 2
    count, size = shown.shape[:2]
    palette = np.asarray(list(COLOURS.values()), np.float32)
    palette /= np.linalg.norm(palette, axis=-1, keepdims=True)
    nearest = np.argmax(shown @ palette.T, axis=-1)
    coloured = np.ptp(shown, axis=-1) >= SATURATION
    votes = (nearest[..., None] == np.arange(len(COLOURS))) & coloured[..., None]
    half = size // 2
    totals = votes.reshape(count, 2, half, 2, half, len(COLOURS)).sum((2, 4)).reshape(count, len(PLACES), -1)
    return np.where(totals.max(-1) >= SHARE * half**2, totals.argmax(-1), NOTHING)


def adherence(images: np.ndarray, scenes: Sequence[Scene]) -> np.ndarray:
    """Share of a caption's clauses that a picture shows: float32 `[N]`, 1 for every real scene.

    A clause is shown if the place it names has its colour; one that names no place, if any has. Shapes and the
    background are not read.
    """
    return np.asarray([np.mean(_shown(row, scene)) for row, scene in zip(reading(images), scenes, strict=True)], "f4")


def exact(images: np.ndarray, scenes: Sequence[Scene]) -> np.ndarray:
    """1 where a picture shows all that its caption says and nothing in any other quadrant, else 0: float32 `[N]`."""
    return np.asarray(
        [
            all(_shown(row, scene)) and np.sum(row != NOTHING) == len(scene.things)
            for row, scene in zip(reading(images), scenes, strict=True)
        ],
        "f4",
    )


def _shown(row: np.ndarray, scene: Scene) -> list[bool]:
    number = {colour: i for i, colour in enumerate(COLOURS)}
    return [
        bool(np.any(row[PLACES.index(thing.place)] == number[thing.colour]) if thing.placed
             else np.any(row == number[thing.colour]))
        for thing in scene.things
    ]  # fmt: skip
