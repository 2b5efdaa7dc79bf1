"""Tokenised examples on disk: an ArrayRecord with random access, a length index, and what it was made from."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from array_record.python import array_record_module

from jaxpo.data.tokens.examples import Example, Segment
from jaxpo.errors import DataError

RECORDS, INDEX, META = "examples.array_record", "lengths.npz", "meta.json"
FORMAT = 2


@dataclass(frozen=True)
class Lengths:
    """Length of every segment: those of example e are `values[offsets[e] : offsets[e + 1]]`.

    Attributes:
      offsets: int64 `[E + 1]`.
      values: int32 `[segments]`.
    """

    offsets: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def of(self, example: int) -> np.ndarray:
        """Lengths of one example's segments."""
        return self.values[self.offsets[example] : self.offsets[example + 1]]

    @classmethod
    def from_lists(cls, lengths: Iterable[Sequence[int]]) -> Lengths:
        """From one list of segment lengths per example."""
        listed = list(lengths)
        offsets = np.zeros(len(listed) + 1, np.int64)
        np.cumsum([len(x) for x in listed], out=offsets[1:])
        return cls(offsets, np.asarray([n for x in listed for n in x], np.int32))


class ExampleStore:
    """Examples by number; holds only the length index in memory. Safe to read from several threads.

    Attributes:
      lengths: `Lengths` of all examples.
      meta: what `write` was given, plus the number of examples.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self.meta: dict[str, Any] = json.loads((directory / META).read_text())
        with np.load(directory / INDEX) as index:
            self.lengths = Lengths(index["offsets"], index["values"])
        self._reader = array_record_module.ArrayRecordReader(str(directory / RECORDS), "readahead_buffer_size:0")

    def __len__(self) -> int:
        return len(self.lengths)

    def read(self, examples: Sequence[int]) -> list[Example]:
        """The examples with these numbers; DataError when the file was damaged after it was opened."""
        if not len(examples):
            return []
        try:
            records = self._reader.read([int(e) for e in examples])
        except (RuntimeError, ValueError) as error:
            file = self.directory / RECORDS
            raise DataError(f"cannot be read: {error}.", file=file, remedy="Delete its folder.") from error
        return [_unpack(record) for record in records]

    def problem(self, key: str) -> str | None:
        """Why this store cannot serve `key`; None when it can."""
        if self.meta.get("format") != FORMAT or self.meta.get("key") != key:
            return "it was made from other data or settings"
        if (self.directory / RECORDS).stat().st_size != self.meta["bytes"]:
            return f"{RECORDS} has another size than when it was written"
        if not self._reader.num_records() == len(self.lengths) == self.meta["examples"]:
            return f"{RECORDS} holds {self._reader.num_records()} of {self.meta['examples']} examples"
        return None


def open_or_write(
    directory: Path, key: str, write: Callable[[StoreWriter], dict[str, Any]], log: Callable[[str], None]
) -> ExampleStore:
    """The store at `directory` when it matches `key`, else a new one; the reason for a rebuild is logged.

    Args:
      directory: final place; appears only when complete (written beside it, then renamed).
      key: identifies everything the contents depend on.
      write: fills the writer and returns metadata.
    """
    if directory.exists():
        reason = _check(directory, key)
        if reason is None:
            return ExampleStore(directory)
        log(f"data cache {directory.name} is damaged ({reason}): building it again")
        shutil.rmtree(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        writer = StoreWriter(temporary)
        writer.finish({**write(writer), "key": key, "format": FORMAT})
        _publish(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return ExampleStore(directory)


class StoreWriter:
    """Appends examples; keeps four bytes per segment in memory."""

    def __init__(self, directory: Path):
        self.directory = directory
        self._writer = array_record_module.ArrayRecordWriter(str(directory / RECORDS), "group_size:1")
        self._counts, self._lengths = array("i"), array("i")

    def append(self, example: Example) -> None:
        self._writer.write(_pack(example))
        self._counts.append(len(example.segments))
        self._lengths.extend(len(segment.tokens) for segment in example.segments)

    def finish(self, meta: dict[str, Any]) -> None:
        """Write index and metadata, and flush everything to disk."""
        self._writer.close()
        offsets = np.zeros(len(self._counts) + 1, np.int64)
        np.cumsum(self._counts, out=offsets[1:])
        np.savez(self.directory / INDEX, offsets=offsets, values=np.asarray(self._lengths, np.int32))
        size = (self.directory / RECORDS).stat().st_size
        meta = {**meta, "examples": len(self._counts), "tokens": sum(self._lengths), "bytes": size}
        (self.directory / META).write_text(json.dumps(meta, indent=1))
        for name in (RECORDS, INDEX, META):
            with (self.directory / name).open("rb") as file:
                os.fsync(file.fileno())


def _check(directory: Path, key: str) -> str | None:
    try:
        return ExampleStore(directory).problem(key)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"


def _publish(temporary: Path, directory: Path) -> None:
    """Rename into place; when another process was faster, its equal result stays."""
    try:
        temporary.rename(directory)
    except OSError:
        if not directory.exists():
            raise


def _pack(example: Example) -> bytes:
    return msgpack.packb(
        [[_pack_segment(s) for s in example.segments], example.roles, example.columns, example.file, example.row]
    )


def _pack_segment(segment: Segment) -> tuple[Any, ...]:
    labels = {name: values.astype("<i4").tobytes() for name, values in segment.labels.items()}
    tokens, supervised = segment.tokens.astype("<i4").tobytes(), np.packbits(segment.supervised).tobytes()
    return tokens, supervised, len(segment.tokens), labels


def _unpack(record: bytes) -> Example:
    segments, roles, columns, file, row = msgpack.unpackb(record)
    return Example(tuple(_unpack_segment(*segment) for segment in segments), roles, columns, file, row)


def _unpack_segment(tokens: bytes, supervised: bytes, n: int, labels: dict[str, bytes]) -> Segment:
    mask = np.unpackbits(np.frombuffer(supervised, np.uint8), count=n).astype(bool)
    return Segment(np.frombuffer(tokens, "<i4"), mask, {name: np.frombuffer(x, "<i4") for name, x in labels.items()})
