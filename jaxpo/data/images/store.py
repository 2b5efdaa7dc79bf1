"""Images and captions on disk: an ArrayRecord with random access, and what it was made from."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from array_record.python import array_record_module

from jaxpo.data.durable import crc32_of, intact, publish, seal
from jaxpo.errors import DataError, writing

RECORDS, META = "images.array_record", "meta.json"
FORMAT = 2


@dataclass(frozen=True)
class Stored:
    """One example.

    Attributes:
      images: uint8 `[h, w, 3]` each, or float16 latents; none of a caption alone.
      segments: ids of the caption's segments.
      states: float16 `[L, Dc]` in their place, or None.
      columns: numbers, or lists of them.
      more_states: float16 `[L, C]` of a second text encoder, or None.
    """

    images: tuple[np.ndarray, ...]
    segments: tuple[np.ndarray, ...]
    states: np.ndarray | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    more_states: np.ndarray | None = None


class ImageStore:
    """Examples by number; safe to read from several threads.

    Attributes:
      meta: what they were made from, and what was counted.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self.meta: dict[str, Any] = json.loads((directory / META).read_text())
        self._reader = array_record_module.ArrayRecordReader(str(directory / RECORDS), "readahead_buffer_size:0")

    def __len__(self) -> int:
        return int(self.meta["examples"])

    def read(self, numbers: Sequence[int]) -> list[Stored]:
        """The examples with these numbers; DataError when the file was damaged after it was opened."""
        try:
            return [_unpack(record) for record in self._reader.read([int(n) for n in numbers])]
        except (RuntimeError, ValueError) as error:
            remedy = "It was whole when the run began: see to the disk, and start it again, which builds it again."
            raise DataError(f"cannot be read: {error}.", file=self.directory / RECORDS, remedy=remedy) from error


def open_or_write(
    directory: Path, key: str, write: Callable[[Callable[[Stored], None]], dict[str, Any]], log: Callable[[str], None]
) -> ImageStore:
    """The store at a directory when it matches `key`, else a new one; it appears there only when it is whole.

    Args:
      write: is given what adds an example, and returns what is kept beside them.
    """
    if directory.exists():
        reason = problem(directory, key)
        if reason is None:
            return ImageStore(directory)
        log(f"image cache {directory.name} is damaged ({reason}): building it again")
        shutil.rmtree(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        with writing(directory.parent):
            _write(temporary, key, write)
            publish(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return ImageStore(directory)


def _write(folder: Path, key: str, write: Callable[[Callable[[Stored], None]], dict[str, Any]]) -> None:
    writer = array_record_module.ArrayRecordWriter(str(folder / RECORDS), "group_size:1")
    examples = 0

    def add(example: Stored) -> None:
        nonlocal examples
        writer.write(_pack(example))
        examples += 1

    try:
        meta = write(add)
    finally:
        writer.close()
    meta = {**meta, "key": key, "format": FORMAT, "examples": examples, "crc32": crc32_of(folder / RECORDS)}
    (folder / META).write_text(json.dumps(seal(meta), indent=1))


def problem(directory: Path, key: str) -> str | None:
    """Why the store at a directory cannot serve `key`; None when it can."""
    try:
        meta = json.loads((directory / META).read_text())
        if not intact(meta):
            return f"{META} is not as it was written"
        if meta["format"] != FORMAT or meta["key"] != key:
            return "it was made from other data or settings"
        return None if meta["crc32"] == crc32_of(directory / RECORDS) else f"{RECORDS} is not as it was written"
    except (FileNotFoundError, ValueError, LookupError, TypeError) as error:
        return f"{type(error).__name__}: {error}"


def _pack(example: Stored) -> bytes:
    states = [None if x is None else _pack_array(x) for x in (example.states, example.more_states)]
    whole = [_pack_all(example.images), _pack_all(example.segments), states, dict(example.columns)]
    return bytes(msgpack.packb(whole))


def _unpack(record: bytes) -> Stored:
    images, segments, states, columns = msgpack.unpackb(record)
    of_text, of_adapter = (None if x is None else _unpack_array(*x) for x in states)
    return Stored(
        tuple(_unpack_array(*x) for x in images),
        tuple(_unpack_array(*x) for x in segments),
        of_text,
        columns,
        of_adapter,
    )


def _pack_all(arrays: Iterable[np.ndarray]) -> list[Any]:
    return [_pack_array(x) for x in arrays]


def _pack_array(values: np.ndarray) -> tuple[str, tuple[int, ...], bytes]:
    return values.dtype.name, values.shape, np.ascontiguousarray(values).tobytes()


def _unpack_array(dtype: str, shape: Sequence[int], content: bytes) -> np.ndarray:
    return np.frombuffer(content, np.dtype(dtype)).reshape(shape)
