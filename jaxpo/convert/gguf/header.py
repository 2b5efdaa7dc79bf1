"""The front of a GGUF file, read with care: nothing in it is believed before it is compared with the file's size.

Layout (llama.cpp, `ggml/include/gguf.h`), little-endian: magic, version (u32), tensors (u64), keys (u64); per key its
name, type and value; per tensor its name, dimensions (innermost first), type and offset; then the data, aligned.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jaxpo.convert.gguf.library import gguf
from jaxpo.errors import CheckpointError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = "general.alignment"
MOST_DIMENSIONS = 4
STRING, ARRAY = 8, 9
SCALARS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
"""Types of values (`GGUFValueType`), as numpy names them."""


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of a file.

    Attributes:
      shape: outermost dimension first.
      kind: ggml's type, by name.
      start, size: of its bytes in the file.
    """

    shape: tuple[int, ...]
    kind: str
    start: int
    size: int


@dataclass(frozen=True)
class Header:
    """What a file says of itself."""

    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]


def read_header(file: Path) -> Header:
    """Read keys and tensors.

    Raises:
      CheckpointError: no GGUF file, one that is cut off, or one that contradicts itself; names file and field.
    """
    try:
        with file.open("rb") as stream:
            return _read(_Front(stream, file, file.stat().st_size))
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror}).") from error


def _read(front: _Front) -> Header:
    if front.take(4) != MAGIC:
        raise front.wrong("is no GGUF file: it does not begin with 'GGUF'")
    version = front.number("<u4")
    if version not in VERSIONS:
        big = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
        raise front.wrong("is for big-endian machines" if big else f"is of version {version}; {VERSIONS} are read")
    count, keys = front.count(24, "tensors"), front.count(12, "keys")
    metadata: dict[str, Any] = {}
    for _ in range(keys):
        name = front.text("the name of a key")
        if name in metadata:
            raise front.wrong(f"gives {name[:80]!r} twice")
        metadata[name] = front.value(front.number("<u4"), name)
    infos = [_info(front) for _ in range(count)]
    return Header(metadata, _placed(infos, _alignment(metadata, front), front))


def _alignment(metadata: Mapping[str, Any], front: _Front) -> int:
    found = metadata.get(ALIGNMENT, 32)
    if type(found) is not int or not 1 <= found <= 1 << 20 or found & (found - 1):
        raise front.wrong(f"{ALIGNMENT} is {str(found)[:40]}, not a power of two")
    return found


def _info(front: _Front) -> tuple[str, tuple[int, ...], str, int, int]:
    """Name, shape, type, offset and size, as the file claims them."""
    library, name = gguf(), front.text("the name of a tensor")
    rank = front.number("<u4")
    if not 1 <= rank <= MOST_DIMENSIONS:
        raise front.wrong(f"tensor {name[:80]!r} has {rank} dimensions; 1 to {MOST_DIMENSIONS} are possible")
    shape = tuple(front.number("<u8") for _ in range(rank))[::-1]
    number, offset = front.number("<u4"), front.number("<u8")
    if min(shape) < 1 or math.prod(shape) > 2**50:
        raise front.wrong(f"tensor {name[:80]!r} claims the shape {shape}, which no file holds")
    if number not in iter(library.GGMLQuantizationType):
        raise front.wrong(f"tensor {name[:80]!r} is quantised in a way that is not known here: type {number}")
    kind = library.GGMLQuantizationType(number)
    block, bytes_of = library.GGML_QUANT_SIZES[kind]
    if shape[-1] % block:
        raise front.wrong(f"tensor {name[:80]!r} of shape {shape} has rows of no whole blocks of {kind.name} ({block})")
    return name, shape, kind.name, offset, math.prod(shape) // block * bytes_of


def _placed(infos: list[Any], alignment: int, front: _Front) -> dict[str, TensorInfo]:
    """The tensors at their places in the file, none of them outside it or over another."""
    first = -(-front.position // alignment) * alignment
    found: dict[str, TensorInfo] = {}
    for name, shape, kind, offset, size in infos:
        if name in found:
            raise front.wrong(f"holds tensor {name[:80]!r} twice")
        if offset % alignment:
            raise front.wrong(f"tensor {name[:80]!r} begins at offset {offset}, which is not aligned to {alignment}")
        if first + offset + size > front.size:
            raise front.wrong(
                f"ends within tensor {name[:80]!r}: {first + offset + size:,} bytes are claimed, it has {front.size:,}"
            )
        found[name] = TensorInfo(shape, kind, first + offset, size)
    places = sorted((info.start, info.size, name) for name, info in found.items())
    for (start, size, name), (following, _, other) in itertools.pairwise(places):
        if start + size > following:
            raise front.wrong(f"tensors {name[:80]!r} and {other[:80]!r} overlap")
    return found


class _Front:
    """A cursor over the file's beginning; lengths are compared with what is left before anything of them is read."""

    def __init__(self, stream: BinaryIO, file: Path, size: int):
        self.stream, self.file, self.size, self.position = stream, file, size, 0

    def wrong(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.file}: {what}; convert or copy it again.")

    def take(self, count: int) -> bytes:
        if count > self.size - self.position:
            raise self.wrong(
                f"ends within its header: {count:,} bytes are claimed, {self.size - self.position:,} are left"
            )
        self.position += count
        return self.stream.read(count)

    def number(self, kind: str) -> Any:
        dtype = np.dtype(kind)
        return np.frombuffer(self.take(dtype.itemsize), dtype)[0].item()

    def count(self, least: int, what: str) -> int:
        """A number of things that take `least` bytes each or more."""
        found: int = self.number("<u8")
        if found > (self.size - self.position) // least:
            raise self.wrong(f"claims {found:,} {what}, for which it is too short")
        return found

    def text(self, what: str) -> str:
        length = struct.unpack("<Q", self.take(8))[0]
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.wrong(f"{what} is not UTF-8") from error

    def value(self, kind: int, name: str) -> Any:
        """A value as Python has it; arrays are lists."""
        if kind == STRING:
            return self.text(f"the value of {name[:80]!r}")
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind != ARRAY:
            raise self.wrong(f"{name[:80]!r} has a value of unknown type {kind}")
        inner = self.number("<u4")
        if inner == STRING:
            return [self.text(f"an entry of {name[:80]!r}") for _ in range(self.count(8, f"entries of {name[:80]!r}"))]
        if inner not in SCALARS:
            raise self.wrong(f"{name[:80]!r} is a list of values of unknown type {inner}")
        dtype = np.dtype(SCALARS[inner])
        length = self.count(dtype.itemsize, f"entries of {name[:80]!r}")
        return np.frombuffer(self.take(length * dtype.itemsize), dtype).tolist()
