"""Image files and bytes -> pixels, by Pillow; sizes are read from the header alone. Nothing is fetched."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import io
import struct
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from jaxpo.errors import BadImage

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MAX_PIXELS = 64_000_000
ORIENTATION = 0x0112
TURNED = (5, 6, 7, 8)
"""EXIF orientations under which height and width change places."""
DATA_URL = "data:"
REMOTE = ("http://", "https://", "ftp://", "s3://", "gs://")
HIGH = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
"""Pillow's modes of more than eight bits, which it would cut to white."""

_PILLOWS = (OSError, SyntaxError, ValueError, TypeError, EOFError, struct.error, Image.DecompressionBombError)


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


class Header(NamedTuple):
    """Height and width of an image, and the bytes of its file."""

    height: int
    width: int
    size: int


def image_header(payload: Any, limits: ImageLimits) -> Header:
    """Height and width of what `pixels` gives, and the file's bytes; no more of a file is read than its header.

    Raises:
      BadImage: as of `pixels`, but for what shows only in decoding.
    """
    with _opened(payload, limits) as (image, size, stream):
        width, height = image.size
        with _sound("its EXIF is broken"):
            turned = _orientation(image, stream) in TURNED
    return Header(width, height, size) if turned else Header(height, width, size)


def image_size(payload: Any, limits: ImageLimits) -> tuple[int, int]:
    """Height and width alone of `image_header`."""
    return image_header(payload, limits)[:2]


def digest(payload: Any, limits: ImageLimits) -> bytes:
    """Eight bytes of BLAKE2 of a file, by which a changed one is noticed; none of bytes, which cannot change.

    Raises:
      BadImage: the file cannot be read.
    """
    given = place_or_bytes(payload)
    if not isinstance(given, str):
        return b""
    with _file(given, limits) as stream, _sound("the image cannot be read"):
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=8)).digest()  # type: ignore[arg-type]


def pixels(payload: Any, limits: ImageLimits) -> np.ndarray:
    """uint8 `[h, w, 3]`: turned as its EXIF says, first frame, converted to RGB (an alpha channel is dropped).

    Sixteen bits are scaled to eight.

    Args:
      payload: a path; bytes; `data:image/...;base64,...`; or `{"bytes": ...}` or `{"path": ...}`, as Parquet files of
        images have them.

    Raises:
      BadImage: no image, a broken or empty one, a format or size beyond the limits, a file outside the root, a URL.
    """
    with _opened(payload, limits) as (image, *_), _sound("the image is broken"):
        image.load()
        upright = ImageOps.exif_transpose(image)
        return np.asarray(_eight_bits(upright).convert("RGB"))


def _eight_bits(image: Image.Image) -> Image.Image:
    """Sixteen-bit grey as eight: Pillow's own conversion would cut it off at 255."""
    if image.mode not in HIGH:
        return image
    values = np.asarray(image).astype(np.float64)
    return Image.fromarray(np.clip(np.round(values / 257), 0, 255).astype(np.uint8))


def place_or_bytes(payload: Any) -> str | bytes:
    """A payload as a path or as the bytes of its file, which is not read.

    Raises:
      BadImage: something else, a URL, or text that is no base64.
    """
    if isinstance(payload, Mapping):
        payload = payload.get("bytes") or payload.get("path")
    if isinstance(payload, bytes | bytearray | memoryview):
        return bytes(payload)
    if not isinstance(payload, str | Path):
        raise BadImage(
            f"an image is a path, bytes, a data: URL or an object with bytes or path, not {type(payload).__name__}."
        )
    text = str(payload)
    if text.startswith(DATA_URL):
        return _decoded(text)
    if text.lower().startswith(REMOTE):
        raise BadImage(f"{text[:80]}: images are not fetched.", remedy="Download it and give the file.")
    return text.removeprefix("file://")


@contextlib.contextmanager
def _opened(payload: Any, limits: ImageLimits) -> Iterator[tuple[Image.Image, int, IO[bytes]]]:
    """The image, of which only the header has been read, the bytes of its file, and the file."""
    given = place_or_bytes(payload)
    with _file(given, limits) if isinstance(given, str) else io.BytesIO(given) as stream:
        size = stream.seek(0, io.SEEK_END)
        if not size:
            raise BadImage("the image is empty (0 bytes).")
        if size > limits.max_bytes:
            raise BadImage(f"the image has {size:,} bytes, more than {limits.max_bytes:,}.")
        stream.seek(0)
        with _sound("the image cannot be read"), warnings.catch_warnings():
            # The bound is ours, below; Pillow only warns, and only beyond its own.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(stream, formats=FORMATS)
        with image:
            width, height = image.size
            if width * height > limits.max_pixels:
                what = f"the image has {width} x {height} pixels, more than {limits.max_pixels:,}."
                raise BadImage(what, remedy="Make it smaller.")
            yield image, size, stream


@contextlib.contextmanager
def _sound(what: str) -> Iterator[None]:
    """BadImage for what Pillow raises over broken files, which is of many kinds."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise BadImage(f"this is none of {', '.join(FORMATS)}.", remedy="Convert it.") from error
    except _PILLOWS as error:
        raise BadImage(f"{what}: {error}") from error


def _orientation(image: Image.Image, stream: IO[bytes]) -> Any:
    """What EXIF says. Pillow decodes a whole PNG to find out; here the other chunks are passed over."""
    if image.format != "PNG" or "exif" in image.info:
        return image.getexif().get(ORIENTATION)
    stream.seek(8)
    while len(head := stream.read(8)) == 8:
        length = int.from_bytes(head[:4], "big")
        if head[4:] == b"eXIf":
            found = Image.Exif()
            found.load(stream.read(length))
            return found.get(ORIENTATION)
        stream.seek(length + 4, io.SEEK_CUR)
    return None


def _decoded(url: str) -> bytes:
    head, comma, body = url.partition(",")
    if not comma or not head.endswith(";base64"):
        raise BadImage("a data: URL must be data:image/TYPE;base64,DATA.")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadImage(f"the data: URL is no base64: {error}") from error


def _file(name: str, limits: ImageLimits) -> IO[bytes]:
    path = Path(name) if limits.root is None else limits.root / name
    try:
        if limits.root is not None and not path.resolve().is_relative_to(limits.root.resolve()):
            raise BadImage(f"{name}: lies outside {limits.root}.", remedy="Move it there, or name another image root.")
        if not path.is_file():
            raise BadImage(f"{path}: there is no such file.")
        return path.open("rb")
    except OSError as error:
        raise BadImage(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RuntimeError) as error:  # a NUL in the name; links that lead round in a circle
        raise BadImage(f"{name!r}: is no name of a file: {error}") from error
