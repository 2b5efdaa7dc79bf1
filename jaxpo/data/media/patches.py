"""Pixels -> the pieces that the encoder sees, each as patches in the connector's order."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from jaxpo.config.images import ImageSettings
from jaxpo.data.media.geometry import Geometry
from jaxpo.data.media.resize import resize
from jaxpo.data.tokens.media import PER_VECTOR, Patches
from jaxpo.errors import ConfigError


def patches_of(pixels: np.ndarray, plan: Geometry, settings: ImageSettings) -> tuple[Patches, ...]:
    """The tiles of an image row by row, then its thumbnail.

    Args:
      pixels: uint8 `[plan.height, plan.width, 3]`.
    """
    return tuple(cut(piece, settings) for piece in pieces(pixels, plan))


def pieces(pixels: np.ndarray, plan: Geometry) -> Iterator[np.ndarray]:
    """uint8 `[h, w, 3]` each: the tiles row by row, then the thumbnail."""
    high, wide = plan.tile
    whole = resize(pixels, high * plan.rows, wide * plan.columns)
    for row in range(plan.rows):
        for column in range(plan.columns):
            yield whole[row * high : (row + 1) * high, column * wide : (column + 1) * wide]
    if plan.thumbnail is not None:
        yield resize(pixels, *plan.thumbnail)


def cut(piece: np.ndarray, settings: ImageSettings) -> Patches:
    """Patches of one piece, bytes as they are: those that become one vector stand together.

    Vector (I, J), row by row, reads the patches (2I, 2J), (2I, 2J + 1), (2I + 1, 2J), (2I + 1, 2J + 1). Inside a patch
    the order is row, column, channel.
    """
    side, factor = settings.encoder_patch_size, settings.downsample_factor
    if factor**2 != PER_VECTOR:
        raise ConfigError(f"downsample_factor must be 2; it is {factor}.")
    rows, columns = piece.shape[0] // side, piece.shape[1] // side
    grid = piece.reshape(rows // factor, factor, side, columns // factor, factor, side, 3)
    values = grid.transpose(0, 3, 1, 4, 2, 5, 6).reshape(rows * columns, side * side * 3)
    places = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1).astype(np.int32)
    ordered = places.reshape(rows // factor, factor, columns // factor, factor, 2).transpose(0, 2, 1, 3, 4)
    size = np.broadcast_to(np.asarray((rows, columns), np.int32), ordered.shape)
    return Patches(np.ascontiguousarray(values), np.concatenate([ordered, size], -1).reshape(-1, 4))


def normalised(values: np.ndarray, settings: ImageSettings) -> np.ndarray:
    """float32 of bytes, (x / 255 - mean) / std by channel, computed as (x - 255 mean) / (255 std)."""
    moments = np.asarray((settings.image_mean, settings.image_std), np.float32) * 255
    mean, std = np.tile(moments, values.shape[-1] // 3)
    shown: np.ndarray = (values.astype(np.float32) - mean) / std
    return shown
