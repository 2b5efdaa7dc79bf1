"""Height and width of an image -> what is cut of it, and how many vectors it becomes; no pixel is needed.

Source: transformers' Lfm2VlImageProcessorFast, by its behaviour.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from jaxpo.config.images import ImageSettings
from jaxpo.errors import BadImage


@dataclass(frozen=True)
class Geometry:
    """What an image becomes.

    Attributes:
      height, width: of the image, in pixels.
      rows, columns: tiles; 1 and 1 where the image is one piece.
      tile: pixels (height, width) of each tile, or of the one piece.
      thumbnail: pixels of the whole image that follows the tiles; None where none does.
      unit: pixels along the side of what becomes one vector.
    """

    height: int
    width: int
    rows: int
    columns: int
    tile: tuple[int, int]
    thumbnail: tuple[int, int] | None
    unit: int

    @property
    def tokens_per_tile(self) -> int:
        """Vectors of one tile."""
        return self._vectors(self.tile)

    @property
    def tokens_of_thumbnail(self) -> int:
        """Vectors of the thumbnail; 0 where there is none."""
        return self._vectors(self.thumbnail) if self.thumbnail else 0

    @property
    def tokens(self) -> int:
        """Vectors of the whole image, without the marks around them."""
        return self.rows * self.columns * self.tokens_per_tile + self.tokens_of_thumbnail

    @property
    def is_split(self) -> bool:
        """Whether there are several tiles."""
        return self.rows * self.columns > 1

    def _vectors(self, size: tuple[int, int]) -> int:
        return (size[0] // self.unit) * (size[1] // self.unit)


def geometry(height: int, width: int, settings: ImageSettings) -> Geometry:
    """What an image of this size becomes.

    Raises:
      BadImage: it has no pixels, or is so long that with its breadth at one unit it takes more vectors than it may.
    """
    if min(height, width) < 1:
        raise BadImage(f"an image of {width} x {height} pixels has nothing to see.")
    whole = fitted(height, width, settings)
    if whole[0] * whole[1] > settings.max_image_tokens * settings.unit**2:
        raise BadImage(
            f"an image of {width} x {height} pixels is too long for its breadth: in one piece it takes "
            f"{whole[0] * whole[1] // settings.unit**2} vectors, max_image_tokens being {settings.max_image_tokens}.",
            remedy="Cut it.",
        )
    if not (settings.do_image_splitting and is_large(height, width, settings) and settings.max_tiles > 1):
        return Geometry(height, width, 1, 1, whole, None, settings.unit)
    rows, columns = grid(height, width, settings)
    tile = (settings.tile_size, settings.tile_size)
    thumbnail = whole if settings.use_thumbnail and rows * columns > 1 else None
    return Geometry(height, width, rows, columns, tile, thumbnail, settings.unit)


def fitted(height: int, width: int, settings: ImageSettings) -> tuple[int, int]:
    """Size in pixels, multiples of the unit, of an image in one piece: its own, or as many vectors as are allowed.

    With h, w and the unit F, rounding half to even:  F round(h / F), F round(w / F), at least F. Above the most vectors
    both are divided by s = sqrt(h w / (most F^2)) and rounded down; below the fewest multiplied and rounded up.
    """
    unit = settings.unit
    most, fewest = settings.max_image_tokens * unit**2, settings.min_image_tokens * unit**2
    high, wide = (max(unit, unit * round(side / unit)) for side in (height, width))
    if high * wide > most:
        scale = math.sqrt(height * width / most)
        high, wide = (max(unit, unit * math.floor(side / scale / unit)) for side in (height, width))
    elif high * wide < fewest:
        scale = math.sqrt(fewest / (height * width))
        high, wide = (unit * math.ceil(side * scale / unit) for side in (height, width))
    return high, wide


def is_large(height: int, width: int, settings: ImageSettings) -> bool:
    """Whether an image is cut: its rounded area exceeds `max_pixels_tolerance` times that of the most vectors."""
    unit = settings.unit
    high, wide = (max(settings.encoder_patch_size, unit * round(side / unit)) for side in (height, width))
    return high * wide > settings.max_pixels_tolerance * settings.max_image_tokens * unit**2


def grid(height: int, width: int, settings: ImageSettings) -> tuple[int, int]:
    """Rows and columns of tiles: the ratio nearest the image's; of equal ones the larger, if the image fills half."""
    ratio, area, best, nearest = width / height, height * width, (1, 1), math.inf
    for columns, rows in grids(settings.min_tiles, settings.max_tiles):
        away = abs(ratio - columns / rows)
        fills = area > 0.5 * settings.tile_size**2 * columns * rows
        if away < nearest or (away == nearest and fills):
            best, nearest = (rows, columns), away
    return best


@functools.lru_cache(maxsize=64)
def grids(fewest: int, most: int) -> tuple[tuple[int, int], ...]:
    """`(columns, rows)` of fewest to most tiles, by their number.

    Among grids of one area the order is that of a Python set filled in this order, as it is in transformers; it matters
    only where `min_tiles` equals `max_tiles` and a square image could be cut either way.
    """
    every = (
        (columns, rows)
        for n in range(fewest, most + 1)
        for columns in range(1, n + 1)
        for rows in range(1, n + 1)
        if fewest <= columns * rows <= most
    )
    return tuple(sorted(set(every), key=lambda each: each[0] * each[1]))
