"""A scene: what it shows, what its caption says of it, and its pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from jaxpo.errors import ConfigError

COLOURS = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0), "yellow": (1.0, 1.0, 0.0)}
SHAPES = ("square", "circle", "triangle")
PLACES = ("top left", "top right", "bottom left", "bottom right")
"""The quadrants in the order of reading: a place's number is 2 * row + column."""
BACKGROUNDS = {"black": 0.0, "grey": 0.35}


@dataclass(frozen=True)
class Thing:
    """One coloured shape.

    Attributes:
      colour: one of `COLOURS`.
      shape: one of `SHAPES`.
      place: one of `PLACES`.
      shift: rows and columns, in eighths of the picture, off its quadrant's corner: 0 or 1. Never said.
      placed: whether the caption says where it is.
    """

    colour: str
    shape: str
    place: str
    shift: tuple[int, int] = (0, 0)
    placed: bool = True

    @property
    def clause(self) -> str:
        """What a caption says of it, such as "red square top left"."""
        return f"{self.colour} {self.shape} {self.place}" if self.placed else f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """Things in different quadrants before a background.

    Attributes:
      things: one to four.
      background: one of `BACKGROUNDS`.
      gain: what every colour, the background's too, is multiplied with. Never said.
    """

    things: tuple[Thing, ...]
    background: str = "black"
    gain: float = 1.0

    @property
    def caption(self) -> str:
        """A clause for each thing, ended by a full stop, and the background: "red square top left. on black"."""
        return " ".join([f"{thing.clause}." for thing in self.things] + [f"on {self.background}"])


@cache
def mask(shape: str, side: int) -> np.ndarray:
    """bool `[side, side]`: where a shape is."""
    grid = (np.arange(side) - (side - 1) / 2) / (side / 2)
    row, column = np.meshgrid(grid, grid, indexing="ij")
    return {
        "square": np.ones((side, side), bool),
        "circle": row**2 + column**2 <= 0.81,
        "triangle": np.abs(column) <= (row + 1) / 2 + 0.2,
    }[shape]


def render(scenes: Sequence[Scene], size: int = 8) -> np.ndarray:
    """The pixels of scenes: float32 `[N, size, size, 3]` in [-1, 1], red, green and blue.

    Raises:
      ConfigError: a size that is no multiple of 8: shapes and shifts are counted in eighths.
    """
    if size < 8 or size % 8:
        raise ConfigError(
            f"Scenes are drawn in eighths, so that a side of {size} pixels is none. Give a multiple of 8."
        )
    eighth, out = size // 8, np.empty((len(scenes), size, size, 3), np.float32)
    for picture, scene in zip(out, scenes, strict=True):
        picture[:] = BACKGROUNDS[scene.background]
        for thing in scene.things:
            row, column = divmod(PLACES.index(thing.place), 2)
            top, left = (4 * corner + shift for corner, shift in zip((row, column), thing.shift, strict=True))
            where = (slice(top * eighth, (top + 3) * eighth), slice(left * eighth, (left + 3) * eighth))
            picture[where][mask(thing.shape, 3 * eighth)] = COLOURS[thing.colour]
        picture *= scene.gain
    return 2 * out - 1
