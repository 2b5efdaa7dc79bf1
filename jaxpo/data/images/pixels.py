"""The images of an example as arrays: decoded, their short side resized, cut and mirrored alike, in [-1, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxpo.data.images.formats import Item
from jaxpo.data.media.decode import ImageLimits, pixels
from jaxpo.data.media.resize import resize
from jaxpo.errors import DataError

LIMITS = ImageLimits()


def arrays_of(item: Item, size: int, channels: int) -> list[np.ndarray]:
    """What is stored of an example's images: uint8 `[h, w, 3]` with the short side `size`, or float16 latents.

    Raises:
      DataError: an image that cannot be read or is so narrow that it would fill the memory, two sizes in one pair,
        latents that are no finite `[C, size, size]`.
    """
    read = _latent if item.latent else _image
    found = [read(item, payload, name) for payload, name in zip(item.images, item.fields, strict=True)]
    shapes = {x.shape[:2] for x in found}
    if len(shapes) > 1:
        sizes = " and ".join(f"{x.shape[1]} x {x.shape[0]}" for x in found)
        remedy = "Both images of a pair share their crop; give them one size."
        raise item.error(f"the images of the pair have two sizes, {sizes}.", remedy=remedy)
    for x, name in zip(found, item.fields, strict=True):
        if x.shape[2] != channels:
            what = f"has {x.shape[2]} channels, and the model reads {channels}."
            raise item.error(what, field=name, remedy="Latents have 4, images 3.")
        if item.latent and x.shape[:2] != (size, size):
            what = f"is {x.shape[0]} x {x.shape[1]}, and the model reads {size} x {size}."
            raise item.error(what, field=name, remedy="Encode images of the size that the model was made for.")
    return (
        found if item.latent else [_short_side(x, size, item, name) for x, name in zip(found, item.fields, strict=True)]
    )


def _image(item: Item, payload: Any, name: str) -> np.ndarray:
    try:
        return pixels(_placed(payload, item.file), LIMITS)
    except DataError as error:
        raise item.error(error.message, field=name, remedy=error.remedy) from error


def _placed(payload: Any, file: Path) -> Any:
    """A relative path begins at the file that names it."""
    if isinstance(payload, dict) and not payload.get("bytes"):
        payload = payload.get("path")
    if isinstance(payload, str) and "://" not in payload and not payload.startswith("data:"):
        return str(file.parent / payload)
    return payload


def _latent(item: Item, payload: Any, name: str) -> np.ndarray:
    try:
        values = np.asarray(payload, np.float32)
    except (TypeError, ValueError) as error:
        raise item.error("is no array of numbers [C][h][w].", field=name) from error
    if values.ndim != 3:
        raise item.error(f"has {values.ndim} axes, not the three of [C][h][w].", field=name)
    with np.errstate(over="ignore"):
        kept = values.astype(np.float16)
    if not np.isfinite(kept).all():
        raise item.error("holds a number that is not finite, or too large for 16 bits.", field=name)
    return np.ascontiguousarray(kept.transpose(1, 2, 0))


def _short_side(image: np.ndarray, size: int, item: Item, name: str) -> np.ndarray:
    height, width = image.shape[:2]
    scale = size / min(height, width)
    rows, columns = max(size, round(height * scale)), max(size, round(width * scale))
    if rows * columns > LIMITS.max_pixels:
        what = f"is {width} x {height}, of which a short side of {size} makes {rows * columns:,} pixels"
        remedy = "Cut off what is not wanted, or leave it out."
        raise item.error(f"{what}, more than {LIMITS.max_pixels:,}.", field=name, remedy=remedy)
    return resize(image, rows, columns)


def finished(stored: Sequence[np.ndarray], size: int, place: tuple[float, float], mirrored: bool) -> np.ndarray:
    """float32 `[K, size, size, C]`: images cut at one place and mirrored together, in [-1, 1]; latents mirrored alone.

    Args:
      place: share of the room above and to the left that is cut off there, each in [0, 1].
    """
    height, width = stored[0].shape[:2]
    top, left = round(place[0] * (height - size)), round(place[1] * (width - size))
    whole = np.stack([x[top : top + size, left : left + size] for x in stored])
    if whole.dtype == np.uint8:
        whole = whole.astype(np.float32) / 127.5 - 1.0
    whole = whole.astype(np.float32)
    return np.ascontiguousarray(whole[:, :, ::-1]) if mirrored else whole
