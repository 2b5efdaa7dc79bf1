"""Sharded safetensors folders: written one tensor at a time, read lazily, nothing but safetensors."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from jaxpo.config.places import is_name
from jaxpo.convert.config_json import read_json
from jaxpo.errors import CheckpointError, ConfigError

STEM = "model"
SINGLE = f"{STEM}.safetensors"
INDEX = f"{SINGLE}.index.json"
DTYPES = {"float32": ("F32", np.dtype(np.float32)), "bfloat16": ("BF16", np.dtype(ml_dtypes.bfloat16))}
TYPES = {"F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype(ml_dtypes.bfloat16)}
READABLE = tuple(TYPES)
BLOCK = 1 << 20
"""Entries that are converted and written at once: no copy of a whole tensor is made for a file of another type."""
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


@dataclass(frozen=True)
class Source:
    """A tensor to write: its name, its shape on disk, and how to get its values (called once, when its turn comes).

    A type of its own (`dtype`) goes before that of the whole file.
    """

    name: str
    shape: tuple[int, ...]
    load: Callable[[], np.ndarray]
    dtype: str | None = None


def parse_size(size: int | str) -> int:
    """Bytes from a number or from text such as "5GB", "500MB", "16KB" (powers of 1000); ConfigError otherwise."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(KB|MB|GB|B)?", str(size).strip(), re.IGNORECASE)
    factor = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
    value = int(float(match[1]) * factor[(match[2] or "B").upper()]) if match else 0
    if value < 1:
        raise ConfigError(f"max_shard_size is {size!r}; give a number of bytes or a size such as '5GB'")
    return value


def write_shards(folder: Path, sources: list[Source], dtype: str, max_shard_size: int) -> None:
    """Write `sources` into as few files as `max_shard_size` allows, with an index when there are several."""
    own = {s.name: s.dtype for s in sources if s.dtype is not None}
    with ShardWriter(folder, {s.name: s.shape for s in sources}, dtype, max_shard_size, own) as writer:
        for source in sources:
            writer.write(source.name, source.load())


class ShardWriter:
    """Tensors written one after another, in an order and shapes that are known beforehand; one is in memory at a time.

    Args:
      shapes: name -> shape on disk, in the order of writing.
      dtype: "float32" or "bfloat16".
      max_shard_size: bytes per file; several files get an index.
      own: name -> type, for tensors that are not of type `dtype`.
    """

    def __init__(
        self,
        folder: Path,
        shapes: Mapping[str, tuple[int, ...]],
        dtype: str,
        max_shard_size: int,
        own: Mapping[str, str] = MappingProxyType({}),
    ):
        if dtype not in DTYPES:
            raise ConfigError(f"export dtype is {dtype!r}; choose one of {', '.join(DTYPES)}")
        self.folder, self.shapes = folder, dict(shapes)
        self.types = {name: DTYPES[own.get(name, dtype)] for name in shapes}
        self._groups = _group(self.sizes(shapes), max_shard_size)
        several = len(self._groups) > 1
        names = [f"model-{i + 1:05d}-of-{len(self._groups):05d}.safetensors" for i in range(len(self._groups))]
        self._files = names if several else [SINGLE]
        self._waiting = [(file, name) for file, group in zip(self._files, self._groups, strict=True) for name in group]
        self._open: tuple[str, BinaryIO] | None = None
        if several:
            total = {
                "total_size": sum(self.sizes(shapes).values()),
                "total_parameters": sum(math.prod(shape) for shape in shapes.values()),
            }
            _write_index(folder, total, {name: file for file, name in self._waiting})

    def sizes(self, names: Iterable[str]) -> dict[str, int]:
        """Bytes of tensors in the file."""
        return {name: math.prod(self.shapes[name]) * self.types[name][1].itemsize for name in names}

    def write(self, name: str, values: np.ndarray) -> None:
        """The next tensor."""
        file, expected = self._waiting.pop(0)
        if name != expected or values.shape != self.shapes[name]:
            raise ValueError(f"{expected} {self.shapes[expected]} comes next, got {name} {values.shape}")
        if self._open is None or self._open[0] != file:
            self._close()
            out = (self.folder / file).open("wb")
            out.write(self._header(self._groups[self._files.index(file)]))
            self._open = (file, out)
        flat = np.ascontiguousarray(values).reshape(-1)
        for start in range(0, flat.size, BLOCK):
            block = flat[start : start + BLOCK].astype(self.types[name][1], copy=False)
            self._open[1].write(block.view(np.uint8).data)

    def _header(self, names: list[str]) -> bytes:
        """The safetensors format: header length (8 bytes, little-endian), JSON header, values back to back."""
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for name, size in self.sizes(names).items():
            offsets = [offset, offset + size]
            header[name] = {"dtype": self.types[name][0], "shape": list(self.shapes[name]), "data_offsets": offsets}
            offset += size
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    def _close(self) -> None:
        if self._open is not None:
            out = self._open[1]
            self._open = None
            out.flush()
            os.fsync(out.fileno())
            out.close()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._close()
        if kind is None and self._waiting:
            raise ValueError(f"{len(self._waiting)} tensors were never written, the first is {self._waiting[0][1]}")


def _group(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    groups: list[list[str]] = [[]]
    used = 0
    for name, size in sizes.items():
        if groups[-1] and used + size > limit:
            groups.append([])
            used = 0
        groups[-1].append(name)
        used += size
    return groups


def _write_index(folder: Path, total: Mapping[str, int], weight_map: Mapping[str, str]) -> None:
    index = {"metadata": dict(total), "weight_map": dict(weight_map)}
    (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Stored:
    """A tensor in an open folder.

    Attributes:
      read: loads it.
      piece: `(first, shape) -> values`: loads so many from that one on, in the order of the file, and nothing else.
        None where a tensor is made as a whole.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]
    piece: Callable[[int, tuple[int, ...]], np.ndarray] | None = None


@contextmanager
def open_shards(folder: Path, stem: str = STEM) -> Iterator[Mapping[str, Stored]]:
    """A folder's tensors by name, none loaded yet; CheckpointError for files absent, cut off or of another type.

    Args:
      stem: what the names of its files begin with.
    """
    with ExitStack() as stack:
        tensors: dict[str, Stored] = {}
        for file in _files(folder, stem):
            found = stack.enter_context(open_file(file))
            if twice := sorted(found.keys() & tensors.keys()):
                raise CheckpointError(f"{file}: holds {twice[0]}, and so does another file of {folder}; keep one.")
            tensors |= found
        yield tensors


@contextmanager
def open_file(file: Path) -> Iterator[Mapping[str, Stored]]:
    """One file's tensors by name, none loaded yet; CheckpointError when it is cut off or of another type."""
    with ExitStack() as stack:
        try:
            opened = stack.enter_context(safe_open(file, framework="np"))
            starts = _starts(file)
            found = {name: _stored(opened, name, file, starts[name]) for name in opened.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{file}: not a complete safetensors file ({error}); copy or download it again."
            ) from error
        yield found


def _starts(file: Path) -> dict[str, int]:
    """Where each tensor's values begin, in a file whose header `safe_open` has checked."""
    with file.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        first = stream.tell()
    return {name: first + about["data_offsets"][0] for name, about in header.items() if name != "__metadata__"}


def _stored(opened: Any, name: str, file: Path, start: int) -> Stored:
    view = opened.get_slice(name)
    shape, dtype = tuple(view.get_shape()), view.get_dtype()

    def piece(first: int, wanted: tuple[int, ...]) -> np.ndarray:
        if dtype not in TYPES:
            raise CheckpointError(f"{file}: {name} is {dtype}, not a floating-point type ({', '.join(READABLE)}).")
        at = start + first * TYPES[dtype].itemsize
        # Not through the file's mapping: its pages would stay in memory, until all of the file is.
        values = np.fromfile(file, TYPES[dtype], math.prod(wanted), offset=at)
        if values.size != math.prod(wanted):
            raise CheckpointError(f"{file}: ends within {name}; it was changed while it was open.")
        return values.reshape(wanted)

    return Stored(shape, dtype, lambda: piece(0, shape), piece)


def _files(folder: Path, stem: str) -> list[Path]:
    single = f"{stem}.safetensors"
    index = f"{single}.index.json"
    if not folder.is_dir():
        if folder.suffix in _PICKLES:
            raise CheckpointError(_refusal(folder))
        raise CheckpointError(f"{folder}: no such folder; give a folder with config.json and {single}.")
    if (folder / index).is_file():
        if (folder / single).is_file():
            raise CheckpointError(
                f"{folder}: holds both {single} and {index}, and readers differ in which they take; "
                "move away what belongs to an older save."
            )
        return _indexed(folder, index)
    if (folder / single).is_file():
        return [folder / single]
    pickles = sorted(f for f in folder.iterdir() if f.suffix in _PICKLES)
    if pickles:
        raise CheckpointError(_refusal(pickles[0]))
    raise CheckpointError(f"{folder}: holds neither {single} nor {index}.")


def _indexed(folder: Path, index: str) -> list[Path]:
    """The files that the index names, all of them in the folder."""
    weight_map = read_json(folder / index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{folder / index}: has no weight_map; copy or download it again.")
    odd = [t for t, name in weight_map.items() if not isinstance(name, str) or not is_name(name)]
    if odd:
        raise CheckpointError(
            f"{folder / index}: weight_map gives {odd[0]} no name of a file in the folder; copy or download it again."
        )
    names = sorted(set(weight_map.values()))
    # Not Path.is_file: a name that no file could have would be an error of its own.
    if absent := [name for name in names if not os.path.isfile(folder / name)]:
        raise CheckpointError(f"{folder}: {index} names files that are missing: {', '.join(absent)}.")
    return [folder / name for name in names]


def _refusal(file: Path) -> str:
    return (
        f"{file}: {file.suffix} files are pickles, which can run code when opened, and are never read. "
        "Save the model again with save_pretrained(..., safe_serialization=True) and import the safetensors."
    )
