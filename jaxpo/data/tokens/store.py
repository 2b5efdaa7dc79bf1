"""Tokenised examples on disk: an ArrayRecord with random access, a length index, and what it was made from."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgpack
import numpy as np
from array_record.python import array_record_module

from jaxpo.data.npz import read_arrays
from jaxpo.data.tokens.examples import Example, Segment
from jaxpo.data.tokens.layout import Layout, SeenLayouts, check_media, from_json, to_json
from jaxpo.data.tokens.media import Patches
from jaxpo.errors import DataError, writing

RECORDS, INDEX, META = "examples.array_record", "lengths.npz", "meta.json"
FORMAT, SPAN = 2, 4096
NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Lengths:
    """Length of every segment: those of example e are `values[offsets[e] : offsets[e + 1]]`.

    Attributes:
      offsets: int64 `[E + 1]`.
      values: int32 `[segments]`.
      media: the same of the examples' media, in patches; None where no example has any.
    """

    offsets: np.ndarray
    values: np.ndarray
    media: Lengths | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def of(self, example: int) -> np.ndarray:
        """Lengths of one example's segments."""
        return self.values[self.offsets[example] : self.offsets[example + 1]]

    @classmethod
    def from_lists(cls, lengths: Iterable[Sequence[int]]) -> Lengths:
        """From one list of segment lengths per example."""
        listed = list(lengths)
        return cls(_offsets([len(x) for x in listed]), np.asarray([n for x in listed for n in x], np.int32))


class ExampleStore:
    """Examples by number; holds only the length index in memory. Safe to read from several threads.

    Attributes:
      lengths: `Lengths` of all examples.
      meta: what `write` was given, plus the number of examples.
      per_token, media: layouts of what the examples carry.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self.meta: dict[str, Any] = json.loads((directory / META).read_text())
        index = read_arrays(directory / INDEX)
        media = Lengths(index["media_offsets"], index["media_values"]) if "media_values" in index else None
        self.lengths = Lengths(index["offsets"], index["values"], media)
        self.per_token: Layout = from_json(self.meta.get("per_token", {}))
        self.media: Layout = from_json(self.meta.get("media", {}))
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
    directory: Path,
    key: str,
    write: Callable[[StoreWriter], dict[str, Any]],
    log: Callable[[str], None],
    files: Sequence[Path] = (),
) -> ExampleStore:
    """The store at `directory` when it matches `key`, else a new one; the reason for a rebuild is logged.

    Args:
      directory: final place; appears only when complete (written beside it, then renamed).
      key: identifies everything the contents depend on.
      write: fills the writer and returns metadata.
      files: named by `Example.file`, for messages.
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
        with writing(directory.parent):
            writer = StoreWriter(temporary, files)
            writer.finish({**write(writer), "key": key, "format": FORMAT})
            _publish(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return ExampleStore(directory)


def same_examples(old: Path, store: ExampleStore) -> bool:
    """Whether a folder, perhaps of an earlier version's format, holds the very examples of a store."""
    try:
        before = ExampleStore(old)
        if len(before) != len(store) or not np.array_equal(before.lengths.values, store.lengths.values):
            return False
        spans = (range(start, min(start + SPAN, len(store))) for start in range(0, len(store), SPAN))
        return all(list(map(_pack, before.read(span))) == list(map(_pack, store.read(span))) for span in spans)
    except (OSError, ValueError, KeyError, TypeError, DataError):
        return False  # what cannot be read is not the same


class StoreWriter:
    """Appends examples; keeps four bytes per segment and medium in memory."""

    def __init__(self, directory: Path, files: Sequence[Path] = ()):
        self.directory, self.files = directory, files
        self._writer = array_record_module.ArrayRecordWriter(str(directory / RECORDS), "group_size:1")
        self._counts, self._lengths = array("i"), array("i")
        self._media_counts, self._media_lengths = array("i"), array("i")
        self._seen = SeenLayouts()

    def append(self, example: Example) -> None:
        """Add an example; DataError when its media and their marks do not match, or its columns are of another type."""
        file = self.files[example.file] if self.files else None
        check_media(example, file)
        self._seen.see(example, file)
        self._writer.write(_pack(example))
        self._counts.append(len(example.segments))
        self._lengths.extend(len(segment.tokens) for segment in example.segments)
        self._media_counts.append(len(example.media))
        self._media_lengths.extend(map(len, example.media))

    def finish(self, meta: dict[str, Any]) -> None:
        """Write index and metadata, and flush everything to disk."""
        self._writer.close()
        index: dict[str, Any] = {"offsets": _offsets(self._counts), "values": np.asarray(self._lengths, np.int32)}
        if self._media_lengths:
            index["media_offsets"] = _offsets(self._media_counts)
            index["media_values"] = np.asarray(self._media_lengths, np.int32)
        np.savez(self.directory / INDEX, **index)
        size = (self.directory / RECORDS).stat().st_size
        meta = {**meta, "examples": len(self._counts), "tokens": sum(self._lengths), "bytes": size}
        meta |= {"per_token": to_json(self._seen.per_token), "media": to_json(self._seen.media)}
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


def _offsets(counts: Sequence[int]) -> np.ndarray:
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def _pack(example: Example) -> bytes:
    segments = [_pack_segment(s) for s in example.segments]
    media = [(_pack_array(m.values), _pack_array(m.positions), m.kind) for m in example.media]
    whole = [segments, example.roles, example.columns, example.file, example.row]
    return msgpack.packb([*whole, media] if media else whole)  # without media, written as it always was


def _pack_segment(segment: Segment) -> tuple[Any, ...]:
    per_token = {name: _pack_column(values) for name, values in segment.per_token.items()}
    tokens, supervised = segment.tokens.astype("<i4").tobytes(), np.packbits(segment.supervised).tobytes()
    return tokens, supervised, len(segment.tokens), per_token


def _pack_column(values: np.ndarray) -> Any:
    """Plain int32 numbers as bare bytes: all that earlier versions wrote and read."""
    return values.astype("<i4").tobytes() if values.dtype == np.int32 and values.ndim == 1 else _pack_array(values)


def _pack_array(values: np.ndarray) -> tuple[str, tuple[int, ...], bytes]:
    return values.dtype.name, values.shape, np.ascontiguousarray(values).tobytes()


def _unpack(record: bytes) -> Example:
    segments, roles, columns, file, row, *rest = msgpack.unpackb(record)
    media = tuple(Patches(_unpack_array(*v), _unpack_array(*p), kind) for v, p, kind in (rest[0] if rest else ()))
    return Example(tuple(_unpack_segment(*segment) for segment in segments), roles, columns, file, row, media)


def _unpack_segment(tokens: bytes, supervised: bytes, n: int, per_token: Mapping[str, Any] = NONE) -> Segment:
    # Format 1 had no columns per token.
    mask = np.unpackbits(np.frombuffer(supervised, np.uint8), count=n).astype(bool)
    columns = {name: _unpack_column(stored) for name, stored in per_token.items()}
    return Segment(np.frombuffer(tokens, "<i4"), mask, columns)


def _unpack_column(stored: Any) -> np.ndarray:
    return np.frombuffer(stored, "<i4") if isinstance(stored, bytes) else _unpack_array(*stored)


def _unpack_array(dtype: str, shape: Sequence[int], content: bytes) -> np.ndarray:
    return np.frombuffer(content, np.dtype(dtype)).reshape(shape)
