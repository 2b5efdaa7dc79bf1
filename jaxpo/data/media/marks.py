"""The ids that stand for images: one mark in a rendered chat becomes the ids of its tiles.

<image>  ->  start, (cell(row, column), image x n) for each tile, (thumbnail, image x t), end
one piece:   start, image x n, end
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxpo.data.media.geometry import Geometry
from jaxpo.errors import BadImage, ConfigError, DataError

IMAGE, START, END, THUMBNAIL = "<image>", "<|image_start|>", "<|image_end|>", "<|img_thumbnail|>"
CELL = "<|img_row_{row}_col_{column}|>"
CELLS = 10
"""Rows and columns that a vocabulary has marks for."""

_SIDE = range(1, CELLS + 1)
NAMES = (IMAGE, *(CELL.format(row=r, column=c) for r in _SIDE for c in _SIDE), THUMBNAIL, START, END)
"""All of them, in the order that LFM2-VL's vocabularies have."""


@dataclass(frozen=True)
class ImageMarks:
    """Ids of a vocabulary; they are found by their strings, for they differ between vocabularies.

    Attributes:
      cells: int32 `[10, 10]`, row and column.
    """

    image: int
    start: int
    end: int
    thumbnail: int
    cells: np.ndarray

    def of(self, plan: Geometry) -> np.ndarray:
        """int32 ids of one image, its marks included.

        Raises:
          BadImage: more rows or columns of tiles than there are marks.
        """
        if not plan.is_split:
            return np.concatenate([[self.start], self._vectors(plan.tokens_per_tile), [self.end]]).astype(np.int32)
        if max(plan.rows, plan.columns) > CELLS:
            raise BadImage(
                f"an image of {plan.width} x {plan.height} pixels is cut into {plan.rows} x {plan.columns} tiles, and "
                f"the vocabulary has marks for {CELLS} x {CELLS}.",
                remedy=f"Set max_tiles to {CELLS} or less.",
            )
        parts: list[Sequence[int] | np.ndarray] = [[self.start]]
        for cell in self.cells[: plan.rows, : plan.columns].ravel():
            parts += [[cell], self._vectors(plan.tokens_per_tile)]
        if plan.thumbnail is not None:
            parts += [[self.thumbnail], self._vectors(plan.tokens_of_thumbnail)]
        return np.concatenate([*parts, [self.end]]).astype(np.int32)

    def _vectors(self, n: int) -> np.ndarray:
        return np.full(n, self.image, np.int32)


def find_marks(special_ids: Mapping[str, int], image_token_id: int | None = None) -> ImageMarks:
    """The marks of a tokenizer.

    Args:
      special_ids: of the tokenizer.
      image_token_id: what the model's configuration says; None = nothing.

    Raises:
      ConfigError: a mark is missing, or the configuration means another token.
    """
    cells = [[CELL.format(row=r, column=c) for c in range(1, CELLS + 1)] for r in range(1, CELLS + 1)]
    wanted = [IMAGE, START, END, THUMBNAIL, *(name for row in cells for name in row)]
    if missing := [name for name in wanted if name not in special_ids]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ConfigError(f"the tokenizer has no token {missing[0]}{more}: it is not that of a model that sees.")
    image = special_ids[IMAGE]
    if image_token_id is not None and image != image_token_id:
        raise ConfigError(
            f"image_token_id of the model is {image_token_id}, but {IMAGE} is {image} in its tokenizer: they do not "
            "belong together."
        )
    found = np.asarray([[special_ids[name] for name in row] for row in cells], np.int32)
    return ImageMarks(image, special_ids[START], special_ids[END], special_ids[THUMBNAIL], found)


def expand(ids: np.ndarray, plans: Sequence[Geometry], marks: ImageMarks) -> tuple[np.ndarray, np.ndarray]:
    """Every image's one id becomes all of its ids.

    Args:
      ids: int32 `[T]` of the rendered text, `marks.image` once for each image.
      plans: of the images, in their order.

    Returns:
      int32 `[U]` ids, and int32 `[U]`: the vector that takes the embedding's place, counted over all images; -1 = none.

    Raises:
      DataError: the text has more or fewer marks than there are images.
    """
    where = np.flatnonzero(ids == marks.image)
    if len(where) != len(plans):
        raise DataError(
            f"the text has {len(where)} places for images ({IMAGE}), and {len(plans)} images are given.",
            remedy="Give one image for each place, in their order.",
        )
    pieces: list[np.ndarray] = []
    last = 0
    for at, plan in zip(where, plans, strict=True):
        pieces += [ids[last:at], marks.of(plan)]
        last = int(at) + 1
    whole = np.concatenate([*pieces, ids[last:]]).astype(np.int32)
    is_vector = whole == marks.image
    return whole, np.where(is_vector, np.cumsum(is_vector) - 1, -1).astype(np.int32)
