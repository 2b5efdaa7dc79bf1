"""Images of a prompt as the engine takes them: pieces, places, and the rows in which they are encoded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from jaxpo.data.packing.batch import Media
from jaxpo.data.tokens.media import PER_VECTOR, Patches, vectors_of


@dataclass(frozen=True, eq=False)
class Shown:
    """What a prompt shows.

    Attributes:
      media: the pieces of its images, in order.
      places: int32 `[S]`, the vector among all of them that takes the place of each token's embedding; -1 = none.
    """

    media: tuple[Patches, ...]
    places: np.ndarray

    @cached_property
    def names(self) -> tuple[int, ...]:
        """A number for each vector, negative, that no other contents have: by it the store of prompts knows it."""
        found: list[int] = []
        for piece in self.media:
            digest = hashlib.sha256(piece.values.tobytes() + piece.positions.tobytes()).digest()
            whole = int.from_bytes(digest, "big") << 32
            found += [-(whole | i) - 1 for i in range(len(piece) // PER_VECTOR)]
        return tuple(found)

    @property
    def longest(self) -> int:
        """Patches of the longest piece."""
        return max(map(len, self.media), default=0)


def problems_of(shown: Shown, length: int, patches: int) -> Iterator[str]:
    """What is wrong with the images of a prompt of `length` tokens, where `patches` are encoded at once."""
    vectors = vectors_of(shown.media)
    used = shown.places[shown.places >= 0]
    if len(shown.places) != length or not np.array_equal(used, np.arange(vectors)):
        yield f"the prompt has {length} tokens and {len(used)} places for the {vectors} vectors of its images, in order"
    elif length and shown.places[-1] >= 0:
        yield "the prompt ends in an image; let a text follow it"
    if shown.longest > patches:
        yield (
            f"an image has a piece of {shown.longest} patches, and the engine encodes {patches} at once; give it more "
            "(patches), or the images fewer (max_image_tokens, tile_size)"
        )


def lengths_of(patches: int) -> tuple[int, ...]:
    """Lengths of the rows in which images are encoded, few so that few programs are compiled."""
    return tuple(dict.fromkeys(-(-patches // (PER_VECTOR * part)) * PER_VECTOR for part in (16, 4, 1)))


def rows_of(media: Sequence[Patches], lengths: Sequence[int]) -> Iterator[tuple[Media, int]]:
    """Pieces one after another in rows of one of these lengths: each row `[1, P]`, and the vectors that it makes."""
    row: list[Patches] = []
    for piece in media:
        if row and sum(map(len, row)) + len(piece) > lengths[-1]:
            yield _laid(row, lengths)
            row = []
        row.append(piece)
    if row:
        yield _laid(row, lengths)


def _laid(row: Sequence[Patches], lengths: Sequence[int]) -> tuple[Media, int]:
    used = sum(map(len, row))
    rest = next(length for length in lengths if length >= used) - used
    values = np.concatenate([piece.values for piece in row])
    positions = np.concatenate([piece.positions for piece in row])
    segments = np.repeat(np.arange(1, len(row) + 1, dtype=np.int32), [len(piece) for piece in row])
    padded: Any = (np.pad(x, ((0, rest), *((0, 0),) * (x.ndim - 1)))[None] for x in (values, segments, positions))
    return Media(*padded), used // PER_VECTOR


def blank(length: int, values: int) -> Media:
    """A row without any piece."""
    row: Any = np.zeros((1, length), np.int32)
    patches: Any = np.zeros((1, length, values), np.uint8)
    return Media(patches, row, np.zeros((1, length, 4), np.int32))  # type: ignore[arg-type]
