"""Arrays from an `.npz` file: no pickle, and no more memory than the file has room for."""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

UNPACKED = 1 << 31
"""Bytes that a file's compressed entries may become together."""
_BLOCK = 1 << 20
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, EOFError, struct.error, ValueError, KeyError, OverflowError),
    *(NotImplementedError, RuntimeError, MemoryError),  # unknown compressions, passwords, headers without end
)


def read_arrays(file: Path) -> dict[str, np.ndarray]:
    """Name -> array of everything in the file.

    Raises:
      ValueError: it is cut off or damaged, holds objects, or an array of another size than its header says.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            packed = sum(entry.file_size for entry in entries if entry.compress_type != zipfile.ZIP_STORED)
            if packed > UNPACKED:
                raise ValueError(f"it would unpack to {packed:,} bytes")
            return {entry.filename.removesuffix(".npy"): _array(archive, entry) for entry in entries}
    except _DAMAGE as error:
        raise ValueError(f"{file}: not a file of arrays: {error}") from error


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(entry) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in _HEADERS:
            raise ValueError(f"{entry.filename} is of version {version}")
        shape, fortran, dtype = _HEADERS[version](stream)
        size = math.prod(shape) * dtype.itemsize
        if dtype.hasobject or min(shape, default=0) < 0:
            raise ValueError(f"{entry.filename} holds {dtype} of shape {shape}, which is never read")
        # Of what is stored as it is, the archive itself may lie about the size.
        held = (
            min(entry.file_size, entry.compress_size) if entry.compress_type == zipfile.ZIP_STORED else entry.file_size
        )
        if size != held - stream.tell():
            raise ValueError(f"{entry.filename} says that it has {size:,} bytes and has {held - stream.tell():,}")
        return np.ndarray(shape, dtype, _read(stream, size), order="F" if fortran else "C")


def _read(stream: Any, size: int) -> bytearray:
    content = bytearray()
    while len(content) < size:
        block = stream.read(min(_BLOCK, size - len(content)))
        if not block:
            raise EOFError(f"{size - len(content):,} bytes are missing")
        content += block
    stream.read(1)  # the checksum is compared at the end
    return content
