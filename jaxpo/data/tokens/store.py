"""Tokenised examples on disk: an ArrayRecord with random access, a length index, and what it was made from."""

from __future__ import annotations

import errno
import json
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any
from zipfile import BadZipFile

import msgpack
import numpy as np
from array_record.python import array_record_module

from jaxpo.data.durable import crc32_of, intact, seal
from jaxpo.data.tokens.examples import Example, Segment
from jaxpo.data.tokens.index import read_index
from jaxpo.data.tokens.layout import Layout, SeenLayouts, check_media, from_json, to_json
from jaxpo.data.tokens.media import Patches, Picture
from jaxpo.errors import DataError

RECORDS, INDEX, META = "examples.array_record", "lengths.npz", "meta.json"
FORMAT, SPAN = 3, 4096
READING = "readahead_buffer_size:0"
# Records are short and read one by one: zstd takes four times as long to write and a third more to read, for a
# twentieth of the size, a sixth where ids take four bytes.
WRITING = "group_size:1,snappy"
NARROW, WIDE = "<u2", "<i4"
"""How ids are stored: in two bytes each where all of a segment fit, else in four."""
NONE: Mapping[str, Any] = MappingProxyType({})
_MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN)


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

    def totals(self) -> np.ndarray:
        """int64 `[E]`: of every example, all its segments together."""
        ends = np.concatenate([[0], np.cumsum(self.values, dtype=np.int64)])
        return np.diff(ends[self.offsets])

    def part(self, start: int, stop: int) -> Lengths:
        """Those of consecutive examples alone."""
        offsets = np.asarray(self.offsets[start : stop + 1])
        media = None if self.media is None else self.media.part(start, stop)
        return Lengths(offsets - offsets[0], self.values[offsets[0] : offsets[-1]], media)

    def take(self, examples: np.ndarray) -> Lengths:
        """Those of some examples alone, in this order."""
        first, counts = self.offsets[examples], self.offsets[examples + 1] - self.offsets[examples]
        offsets = _offsets(counts)
        at = np.arange(offsets[-1]) + np.repeat(first - offsets[:-1], counts)
        media = None if self.media is None else self.media.take(examples)
        return Lengths(offsets, np.asarray(self.values[at]), media)

    @classmethod
    def nothing(cls, examples: int) -> Lengths:
        """Examples without any."""
        return cls(np.zeros(examples + 1, np.int64), np.zeros(0, np.int32))

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
        index = read_index(directory / INDEX)
        media = Lengths(index["media_offsets"], index["media_values"]) if "media_values" in index else None
        self.lengths = Lengths(index["offsets"], index["values"], media)
        self.per_token: Layout = from_json(self.meta.get("per_token", {}))
        self.media: Layout = from_json(self.meta.get("media", {}))
        # A store that was written whole has one file of records, of as many shards as were written as many.
        parts = self.meta.get("records") or [{"file": RECORDS, "examples": self.meta["examples"]}]
        self._files = [directory / part["file"] for part in parts]
        self._starts = np.cumsum([0, *(part["examples"] for part in parts)])
        self._readers = [array_record_module.ArrayRecordReader(str(file), READING) for file in self._files]

    def __len__(self) -> int:
        return len(self.lengths)

    def read(self, examples: Sequence[int]) -> list[Example]:
        """The examples with these numbers; DataError when the file was damaged after it was opened."""
        numbers = np.asarray(examples, np.int64)
        part = np.searchsorted(self._starts, numbers, side="right") - 1
        found: dict[int, Example] = {}
        for p in np.unique(part).tolist():
            at = np.flatnonzero(part == p)
            try:
                records = self._readers[p].read((numbers[at] - self._starts[p]).tolist())
            except (RuntimeError, ValueError) as error:
                remedy = "It was whole when the run began: see to the disk, and start it again, which builds it again."
                raise DataError(f"cannot be read: {error}.", file=self._files[p], remedy=remedy) from error
            found |= zip(at.tolist(), map(_unpack, records), strict=True)
        return [found[i] for i in range(len(numbers))]

    def problem(self, key: str) -> str | None:
        """Why this store cannot serve `key`; None when it can."""
        if not intact(self.meta):
            return f"{META} is not as it was written"
        if self.meta.get("format") != FORMAT or self.meta.get("key") != key:
            return "it was made from other data or settings"
        if sum(file.stat().st_size for file in self._files) != self.meta["bytes"]:
            return f"{', '.join(file.name for file in self._files[:3])}: another size than when it was written"
        for name, digest in self.meta.get("crc32", {}).items():  # of an earlier version there is none: believed
            if crc32_of(self.directory / name) != digest:
                return f"{name} is not as it was written"
        held = [reader.num_records() for reader in self._readers]
        if held != np.diff(self._starts).tolist() or not sum(held) == len(self.lengths) == self.meta["examples"]:
            return f"its files hold {sum(held)} of {self.meta['examples']} examples"
        return None


def same_examples(old: Path, store: ExampleStore) -> bool:
    """Whether a folder, perhaps of an earlier version's format, holds the very examples of a store."""
    try:
        before = ExampleStore(old)
        if len(before) != len(store) or not np.array_equal(before.lengths.values, store.lengths.values):
            return False
        spans = (range(start, min(start + SPAN, len(store))) for start in range(0, len(store), SPAN))
        return all(list(map(_pack, before.read(span))) == list(map(_pack, store.read(span))) for span in spans)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, BadZipFile, DataError):
        return False  # what cannot be read is not the same


class StoreWriter:
    """Appends examples; keeps four bytes per segment and medium in memory."""

    def __init__(self, directory: Path, files: Sequence[Path] = ()):
        self.directory, self.files = directory, files
        self._writer = array_record_module.ArrayRecordWriter(str(directory / RECORDS), WRITING)
        self._counts, self._lengths = array("i"), array("i")
        self._media_counts, self._media_lengths = array("i"), array("i")
        self._of_files: list[int] = []
        self._seen = SeenLayouts()

    def append(self, example: Example) -> None:
        """Add an example; DataError when its media and their marks do not match, or its columns are of another type."""
        file = self.files[example.file] if self.files else None
        check_media(example, file)
        self._seen.see(example, file)
        self._writer.write(_pack(example))
        self._of_files += [0] * (example.file + 1 - len(self._of_files))
        self._of_files[example.file] += 1
        self._counts.append(len(example.segments))
        self._lengths.extend([len(segment.tokens) for segment in example.segments])
        media = example.media_lengths
        self._media_counts.append(len(media))
        self._media_lengths.extend(media)

    def finish(self, meta: dict[str, Any]) -> None:
        """Write index and metadata, with what tells whether they are intact."""
        self._writer.close()
        index: dict[str, Any] = {"offsets": _offsets(self._counts), "values": np.asarray(self._lengths, np.int32)}
        if self._media_lengths:
            index["media_offsets"] = _offsets(self._media_counts)
            index["media_values"] = np.asarray(self._media_lengths, np.int32)
        np.savez(self.directory / INDEX, **index)
        size = (self.directory / RECORDS).stat().st_size
        meta = {**meta, "examples": len(self._counts), "tokens": sum(self._lengths), "bytes": size}
        meta["examples_of_files"] = self._of_files
        meta |= {"per_token": to_json(self._seen.per_token), "media": to_json(self._seen.media)}
        meta["crc32"] = {name: crc32_of(self.directory / name) for name in (RECORDS, INDEX)}
        (self.directory / META).write_text(json.dumps(seal(meta), indent=1))


def check(directory: Path, key: str) -> str | None:
    """Why the store at a directory cannot serve `key`; None when it can."""
    try:
        return ExampleStore(directory).problem(key)
    except OSError as error:
        if isinstance(error, PermissionError) or error.errno in _MACHINE:
            raise  # that says nothing about the content
        return f"{type(error).__name__}: {error}"
    except (ValueError, LookupError, TypeError, AttributeError, RuntimeError, EOFError, BadZipFile) as error:
        return f"{type(error).__name__}: {error}"


def _offsets(counts: Sequence[int]) -> np.ndarray:
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def _pack(example: Example) -> bytes:
    segments = [_pack_segment(s) for s in example.segments]
    media = [(_pack_array(m.values), _pack_array(m.positions), m.kind) for m in example.media]
    pictures = [(p.payload, p.size, p.height, p.width, p.lengths, p.values, p.kind, p.digest) for p in example.pictures]
    whole = [segments, example.roles, example.columns, example.file, example.row]
    further = [media, pictures] if pictures else [media] if media else []
    return msgpack.packb([*whole, *further])  # without media, written as it always was


def _pack_segment(segment: Segment) -> tuple[Any, ...]:
    per_token = {name: _pack_column(values) for name, values in segment.per_token.items()}
    fits = segment.tokens.max(initial=0) <= np.iinfo(np.uint16).max
    tokens = segment.tokens.astype(NARROW if fits else WIDE).tobytes()
    return tokens, np.packbits(segment.supervised).tobytes(), len(segment.tokens), per_token


def _pack_column(values: np.ndarray) -> Any:
    """Plain int32 numbers as bare bytes: all that earlier versions wrote and read."""
    return values.astype("<i4").tobytes() if values.dtype == np.int32 and values.ndim == 1 else _pack_array(values)


def _pack_array(values: np.ndarray) -> tuple[str, tuple[int, ...], bytes]:
    return values.dtype.name, values.shape, np.ascontiguousarray(values).tobytes()


def _unpack(record: bytes) -> Example:
    segments, roles, columns, file, row, *rest = msgpack.unpackb(record)
    media = tuple(Patches(_unpack_array(*v), _unpack_array(*p), kind) for v, p, kind in (rest[0] if rest else ()))
    pictures = tuple(
        Picture(payload, size, height, width, tuple(lengths), *more)
        for payload, size, height, width, lengths, *more in (rest[1] if len(rest) > 1 else ())
    )
    of_segments = tuple(_unpack_segment(*segment) for segment in segments)
    return Example(of_segments, roles, columns, file, row, media, pictures)


def _unpack_segment(tokens: bytes, supervised: bytes, n: int, per_token: Mapping[str, Any] = NONE) -> Segment:
    # Format 1 had no columns per token, and up to format 2 all ids took four bytes.
    ids = np.frombuffer(tokens, WIDE if len(tokens) == 4 * n else NARROW)
    mask = np.unpackbits(np.frombuffer(supervised, np.uint8), count=n).astype(bool)
    columns = {name: _unpack_column(stored) for name, stored in per_token.items()}
    return Segment(ids.astype(np.int32, copy=False), mask, columns)


def _unpack_column(stored: Any) -> np.ndarray:
    return np.frombuffer(stored, "<i4") if isinstance(stored, bytes) else _unpack_array(*stored)


def _unpack_array(dtype: str, shape: Sequence[int], content: bytes) -> np.ndarray:
    return np.frombuffer(content, np.dtype(dtype)).reshape(shape)
