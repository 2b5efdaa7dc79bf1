"""Image files and bytes -> pixels, by Pillow; sizes are read from the header alone. Nothing is fetched."""

from __future__ import annotations

import base64
import binascii
import contextlib
import io
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from jaxpo.errors import DataError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MAX_PIXELS = 64_000_000
ORIENTATION = 0x0112
TURNED = (5, 6, 7, 8)
"""EXIF orientations under which height and width change places."""
DATA_URL = "data:"
REMOTE = ("http://", "https://", "ftp://", "s3://", "gs://")
HIGH = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
"""Pillow's modes of more than eight bits, which it would cut to white."""


@dataclass(frozen=True)
class ImageLimits:
    """What is let in.

    Attributes:
      root: folder that files must lie in, links followed; relative paths begin there. None = the current folder, and
        files may lie anywhere.
      max_pixels: of one image, by its header.
      max_bytes: of its file.
    """

    root: Path | None = None
    max_pixels: int = MAX_PIXELS
    max_bytes: int = 100_000_000


def image_size(payload: Any, limits: ImageLimits) -> tuple[int, int]:
    """Height and width of what `pixels` gives, from the header.

    Raises:
      DataError: as of `pixels`, but for what shows only in decoding.
    """
    with _opened(payload, limits) as image:
        width, height = image.size
        turned = image.getexif().get(ORIENTATION) in TURNED
    return (width, height) if turned else (height, width)


def pixels(payload: Any, limits: ImageLimits) -> np.ndarray:
    """uint8 `[h, w, 3]`: turned as its EXIF says, first frame, converted to RGB (an alpha channel is dropped).

    Sixteen bits are scaled to eight.

    Args:
      payload: a path; bytes; `data:image/...;base64,...`; or `{"bytes": ...}` or `{"path": ...}`, as Parquet files of
        images have them.

    Raises:
      DataError: no image, a broken or empty one, a format or size beyond the limits, a file outside the root, a URL.
    """
    with _opened(payload, limits) as image:
        try:
            image.load()
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"the image is broken: {error}") from error
        upright = ImageOps.exif_transpose(image)
        return np.asarray(_eight_bits(upright).convert("RGB"))


def _eight_bits(image: Image.Image) -> Image.Image:
    """Sixteen-bit grey as eight: Pillow's own conversion would cut it off at 255."""
    if image.mode not in HIGH:
        return image
    values = np.asarray(image).astype(np.float64)
    return Image.fromarray(np.clip(np.round(values / 257), 0, 255).astype(np.uint8))


@contextlib.contextmanager
def _opened(payload: Any, limits: ImageLimits) -> Iterator[Image.Image]:
    data = _bytes_of(payload, limits)
    if not data:
        raise DataError("the image is empty (0 bytes).")
    try:
        with warnings.catch_warnings():
            # The bound is ours, below; Pillow only warns, and only beyond its own.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise DataError(f"this is none of {', '.join(FORMATS)}.", remedy="Convert it.") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"the image cannot be read: {error}") from error
    with image:
        width, height = image.size
        if width * height > limits.max_pixels:
            raise DataError(
                f"the image has {width} x {height} pixels, more than {limits.max_pixels:,}.", remedy="Make it smaller."
            )
        yield image


def _bytes_of(payload: Any, limits: ImageLimits) -> bytes:
    """What the payload holds, or what lies where it points."""
    if isinstance(payload, Mapping):
        payload = payload.get("bytes") or payload.get("path")
    if isinstance(payload, bytes | bytearray | memoryview):
        return _within(bytes(payload), limits)
    if not isinstance(payload, str | Path):
        raise DataError(
            f"an image is a path, bytes, a data: URL or an object with bytes or path, not {type(payload).__name__}."
        )
    text = str(payload)
    if text.startswith(DATA_URL):
        return _within(_decoded(text), limits)
    if text.lower().startswith(REMOTE):
        raise DataError(f"{text[:80]}: images are not fetched.", remedy="Download it and give the file.")
    return _read(text.removeprefix("file://"), limits)


def _decoded(url: str) -> bytes:
    head, comma, body = url.partition(",")
    if not comma or not head.endswith(";base64"):
        raise DataError("a data: URL must be data:image/TYPE;base64,DATA.")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"the data: URL is no base64: {error}") from error


def _read(name: str, limits: ImageLimits) -> bytes:
    path = Path(name) if limits.root is None else limits.root / name
    try:
        if limits.root is not None and not path.resolve().is_relative_to(limits.root.resolve()):
            raise DataError(f"{name}: lies outside {limits.root}.", remedy="Move it there, or name another image root.")
        if not path.is_file():
            raise DataError(f"{path}: there is no such file.")
        if path.stat().st_size > limits.max_bytes:
            raise DataError(f"{path}: has {path.stat().st_size:,} bytes, more than {limits.max_bytes:,}.")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _within(data: bytes, limits: ImageLimits) -> bytes:
    if len(data) > limits.max_bytes:
        raise DataError(f"the image has {len(data):,} bytes, more than {limits.max_bytes:,}.")
    return data
