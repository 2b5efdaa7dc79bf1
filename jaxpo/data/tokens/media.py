"""An example's media (image tiles, stretches of sound), and the tokens whose embeddings their vectors replace."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MEDIA = "media"
"""Per-token column, int32: the vector that takes the embedding's place, -1 = none."""
IMAGE, FEATURES = "image", "image_features"
"""Kinds of media: patches of images, and what an encoder made of them, of as many patches."""
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
    kind: str = IMAGE

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class Picture:
    """An image as a store keeps it: where it lies and what it becomes; its pixels are read when a batch is made.

    Attributes:
      payload: path as its row gives it, or the bytes of its file.
      size: bytes of the file.
      height, width: in pixels.
      lengths: patches of each of its pieces.
      values: bytes of a patch.
      digest: of the file's bytes; empty where they are the payload, and in what earlier versions kept.
    """

    payload: str | bytes
    size: int
    height: int
    width: int
    lengths: tuple[int, ...]
    values: int
    kind: str = IMAGE
    digest: bytes = b""


def vectors_of(media: tuple[Patches, ...]) -> int:
    """Vectors that the connector makes of all media."""
    return sum(map(len, media)) // PER_VECTOR
