"""The length index on disk: an .npz whose arrays are written a piece at a time, and mapped where they are large."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxpo.data.npz import read_arrays

MAPPED_FROM = 1 << 26
"""Bytes; smaller files are read into memory."""
PIECE = 1 << 22
_LOCAL_HEADER = 30

Column = tuple[Any, int, Iterable[np.ndarray]]
"""dtype, number of entries, and the pieces that hold them."""


def write_index(file: Path, columns: Mapping[str, Column]) -> None:
    """What `np.savez` writes, without the arrays in memory."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, (dtype, entries, pieces) in columns.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                about = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (entries,)}
                np.lib.format.write_array_header_1_0(stream, about)
                for piece in pieces:
                    stream.write(np.ascontiguousarray(piece, dtype).tobytes())


def read_index(file: Path) -> dict[str, np.ndarray]:
    """The arrays by name; checked against their checksums.

    Raises:
      OSError, ValueError, zipfile.BadZipFile: a damaged file.
    """
    if file.stat().st_size < MAPPED_FROM:
        return read_arrays(file)
    with zipfile.ZipFile(file) as archive:
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"{damaged} is damaged")
        return {info.filename.removesuffix(".npy"): _mapped(file, info) for info in archive.infolist()}


def _mapped(file: Path, info: zipfile.ZipInfo) -> np.ndarray:
    """An array that lies in an archive as it is."""
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{info.filename} is compressed")
    with file.open("rb") as stream:
        stream.seek(info.header_offset)
        name, extra = struct.unpack("<HH", stream.read(_LOCAL_HEADER)[26:])
        stream.seek(info.header_offset + _LOCAL_HEADER + name + extra)
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError(f"{info.filename} has another header than was written")
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        return np.memmap(file, dtype, "r", stream.tell(), shape)


def offsets_of(counts: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """0 and the sums so far of all counts, a piece at a time."""
    total = 0
    yield np.zeros(1, np.int64)
    for piece in counts:
        sums = np.cumsum(piece, dtype=np.int64) + total
        total = int(sums[-1]) if len(sums) else total
        yield sums


def pieces_of(array: np.ndarray) -> Iterator[np.ndarray]:
    """An array in pieces of bounded size."""
    yield from (array[start : start + PIECE] for start in range(0, len(array), PIECE))
