"""An example's media (image tiles, stretches of sound), and the tokens whose embeddings their vectors replace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from jaxpo.errors import DataError

if TYPE_CHECKING:
    from jaxpo.data.tokens.examples import Example

MEDIA = "media"
"""Per-token column, int32: the vector that takes the embedding's place, -1 = none."""
PER_VECTOR = 4
"""Patches that the connector makes a vector of: vector i reads patches 4i .. 4i + 3."""


@dataclass(frozen=True)
class Patches:
    """One medium, which the encoder sees as a whole: n patches in connector order, n a multiple of 4.

    Attributes:
      values: `[n, C]`, any dtype.
      positions: int32 `[n, 4]`: row, column, rows and columns of the patch grid.
      kind: name in `Batch.media`; one per dataset.
    """

    values: np.ndarray
    positions: np.ndarray
    kind: str = "image"

    def __len__(self) -> int:
        return len(self.values)


def vectors_of(media: tuple[Patches, ...]) -> int:
    """Vectors that the connector makes of all media."""
    return sum(map(len, media)) // PER_VECTOR


def check_media(example: Example, file: object = None) -> None:
    """Every vector must take a token's place, and every mark must name a vector.

    Raises:
      DataError: media without a mark, a mark without media, or patches that fill no vector.
    """
    marks = [s.per_token[MEDIA] for s in example.segments if MEDIA in s.per_token]
    if not marks and not example.media:
        return
    for number, patches in enumerate(example.media):
        if len(patches) % PER_VECTOR or patches.positions.shape != (len(patches), 4):
            raise _error(
                example,
                file,
                f"medium {number} has {len(patches)} patches and positions {patches.positions.shape}.",
                f"Give a multiple of {PER_VECTOR} patches, and row, column, rows and columns for each.",
            )
    vectors, used = vectors_of(example.media), np.unique(np.concatenate([np.zeros(0, np.int32), *marks]))
    if len(used) and used[-1] >= vectors:
        raise _error(
            example,
            file,
            f"mark {used[-1]} has no media: there are {vectors} vectors.",
            "Give one medium for each place of one in the text, in the same order.",
        )
    unmarked = np.setdiff1d(np.arange(vectors), used)
    if len(unmarked):
        raise _error(
            example,
            file,
            f"{len(unmarked)} of {vectors} vectors of media have no mark (vector {unmarked[0]} first).",
            "Give the text a place for each medium; raise data.max_length if truncation cut the place off.",
        )


def _error(example: Example, file: object, what: str, remedy: str) -> DataError:
    return DataError(what, file=file, row=example.row, field=MEDIA, remedy=remedy)
