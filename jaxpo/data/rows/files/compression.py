"""Open a file whatever it is compressed with."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from jaxpo.errors import DataError

# What the libraries raise for a file that is cut off or damaged.
DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError)
UNPACKED, RATIO = 1 << 28, 500
"""Bytes that any file may unpack to; beyond that, as multiples of its size, what no data does."""
_POINTER = b"version https://git-lfs"
_MAGIC = {b"\x1f\x8b": ".gz", b"\x28\xb5\x2f\xfd": ".zst", b"BZh": ".bz2", b"\xfd7zXZ\x00": ".xz"}


def _zstandard(file: Path) -> Any:
    import pyarrow as pa

    return pa.CompressedInputStream(pa.OSFile(str(file)), "zstd")


OPENERS: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": _zstandard}


def compression_of(file: Path) -> str:
    """ ".gz", ".zst", ".bz2", ".xz", or "" of a file's name."""
    suffix = file.suffix.lower()
    return suffix if suffix in OPENERS else ""


class _Bounded(io.RawIOBase):
    """What a file unpacks to, until it is absurdly more than the file: nothing that follows has an end."""

    def __init__(self, file: Path, inside: Any):
        self._file, self._inside = file, inside
        self._left = max(UNPACKED, RATIO * file.stat().st_size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = self._inside.read(len(buffer))
        self._left -= len(block)
        if self._left < 0:
            raise DataError(
                f"unpacks to more than {RATIO} times its size.", file=self._file, remedy="Unpack it, and look at it."
            )
        buffer[: len(block)] = block
        return len(block)


@contextlib.contextmanager
def opened(file: Path) -> Iterator[io.BufferedReader[Any]]:
    """The decompressed bytes from the start on; DataError for a compressed file whose name does not say so."""
    compression = compression_of(file)
    with contextlib.ExitStack() as stack:
        if compression:
            inside = stack.enter_context(OPENERS[compression](file))
            stream: io.BufferedReader[Any] = io.BufferedReader(_Bounded(file, inside))
        else:
            stream = stack.enter_context(file.open("rb"))
        head = stream.peek(len(_POINTER))
        if head.startswith(_POINTER):
            raise DataError("a pointer of Git LFS, not the data.", file=file, remedy="Fetch it: `git lfs pull`.")
        found = next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)
        if found is not None:
            raise DataError(
                f"the contents are compressed ({found}), which the name does not say.",
                file=file,
                remedy=f"Name it {file.name}{found}.",
            )
        yield stream


@contextlib.contextmanager
def on_disk(file: Path) -> Iterator[IO[bytes] | str]:
    """What a library that jumps about in a file can read: its path, or a decompressed copy while it is needed."""
    if not compression_of(file):
        yield str(file)
        return
    with opened(file) as stream, tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(stream, copy, 1 << 20)
        copy.seek(0)
        yield copy
