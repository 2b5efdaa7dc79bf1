"""Per-token float32 values of every segment of a dataset, in one memory-mapped file that can be filled bit by bit."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxpo.data.durable import intact, publish, seal
from jaxpo.data.packing.columns import PerSegment
from jaxpo.data.tokens.examples import Example
from jaxpo.data.tokens.layout import Layout
from jaxpo.data.tokens.store import Lengths
from jaxpo.errors import DataError, writing

REF_LOGPS = "ref_logps"
META, VALUES, DONE, SUMS = "meta.json", "values.f32", "done.u8", "crc32.u4"
CHECKED = "checksums"
"""Field of `meta.json` that says that there are some."""


class RaggedColumn:
    """One float32 per token of every segment: log-probs, of which entry 0 is 0, or values. Entry t belongs to token t.

    Values, a checksum and a done-flag per segment are written in place, so an interrupted job goes on where it stopped.
    The checksums are compared when the column is opened: all values are read once.

    Attributes:
      name: of the column in `Batch.per_token`; not stored.
      notes: what `create` found and mended, in words.
    """

    def __init__(self, directory: Path, lengths: Lengths, key: str, *, writable: bool, name: str = REF_LOGPS):
        self.directory, self.lengths, self.key, self.name = directory, lengths, key, name
        self.notes: list[str] = []
        stored = _read_meta(directory)
        if {part: stored.get(part) for part in ("key", "lengths")} != _meta(lengths, key):
            raise DataError(
                "these per-token values belong to another model, dataset or setting.",
                file=directory,
                remedy="Delete the folder to compute them again.",
            )
        self._starts = np.concatenate([[0], np.cumsum(lengths.values, dtype=np.int64)])
        self._mode: Literal["r", "r+"] = "r+" if writable else "r"
        self._values = self._map(VALUES, "<f4", int(self._starts[-1]))
        self._done = self._map(DONE, "u1", len(lengths.values))
        # Of an earlier version, without checksums: believed.
        self._sums = self._map(SUMS, "<u4", len(lengths.values)) if CHECKED in stored else None

    @classmethod
    def create(cls, path: str | Path, lengths: Lengths, key: str, name: str = REF_LOGPS) -> RaggedColumn:
        """An empty column, or the existing one with the same key, ready to go on writing.

        Damaged segments are missing again; a column without a description, or with files of another size, is begun
        again. Both are said in `notes`.

        Raises:
          DataError: the folder holds a column with another key.
        """
        directory, notes = Path(path), []
        try:
            if not (directory / META).exists():
                _begin(directory, lengths, key)
            column = cls(directory, lengths, key, writable=True, name=name)
        except DamagedColumn as error:
            notes.append(f"{error} All of its values are computed again.")
            _begin(directory, lengths, key)
            column = cls(directory, lengths, key, writable=True, name=name)
        column.notes = notes + column._mend()
        return column

    @classmethod
    def open(cls, path: str | Path, lengths: Lengths, key: str, name: str = REF_LOGPS) -> RaggedColumn:
        """An existing column, read-only; DataError when it is absent, damaged, or has another key."""
        column = cls(Path(path), lengths, key, writable=False, name=name)
        if damaged := column._damaged():
            raise DataError(
                f"the values of {len(damaged)} segments are not those that were written.",
                file=column.directory / VALUES,
                remedy="Start the run that wrote them again: it computes them again.",
            )
        return column

    def write(self, example: int, segment: int, values: np.ndarray) -> None:
        """Store one segment's values, `[length]`."""
        at, start, end = self._place(example, segment)
        if len(values) != end - start:
            raise ValueError(f"example {example}, segment {segment} has {end - start} tokens, not {len(values)}")
        self._values[start:end] = values
        assert self._sums is not None
        self._sums[at] = self._sum(start, end)
        self._done[at] = 1

    def get(self, example: int, segment: int) -> np.ndarray:
        """One segment's values, float32 `[length]`; DataError when they were never written."""
        at, start, end = self._place(example, segment)
        if not self._done[at]:
            raise DataError(
                f"example {example}, segment {segment} has no values yet.",
                file=self.directory,
                remedy="Finish computing them first.",
            )
        return np.asarray(self._values[start:end])

    @property
    def layout(self) -> Layout:
        """One number per token."""
        return {self.name: (np.dtype(np.float32), ())}

    def of_examples(self, numbers: Sequence[int], examples: Sequence[Example]) -> Iterator[PerSegment]:
        """The values of these examples."""
        for number in numbers:
            yield [{self.name: self.get(number, s)} for s in range(len(self.lengths.of(number)))]

    def complete(self) -> bool:
        """True when every segment of every example was written."""
        return bool(np.all(self._done))

    def missing(self) -> np.ndarray:
        """Numbers of the examples that still lack a segment."""
        example_of = np.repeat(np.arange(len(self.lengths)), np.diff(self.lengths.offsets))
        return np.unique(example_of[np.asarray(self._done) == 0])

    def flush(self) -> None:
        """Push everything written so far to disk: values first, then the flags that vouch for them."""
        for array in (self._values, self._sums, self._done):
            assert isinstance(array, np.memmap)
            array.flush()

    def _place(self, example: int, segment: int) -> tuple[int, int, int]:
        at = int(self.lengths.offsets[example]) + segment
        return at, int(self._starts[at]), int(self._starts[at + 1])

    def _sum(self, start: int, end: int) -> int:
        return zlib.crc32(self._values[start:end].data)

    def _damaged(self) -> list[int]:
        """Segments whose values are not those that were written."""
        if self._sums is None:
            return []
        ends, sums = self._starts.tolist(), self._sums
        return [at for at in np.flatnonzero(self._done).tolist() if self._sum(ends[at], ends[at + 1]) != sums[at]]

    def _mend(self) -> list[str]:
        """Have damaged segments missing again, and give the column of an earlier version its checksums."""
        if self._sums is None:
            reserve(self.directory / SUMS, 4 * len(self.lengths.values))
            self._sums, ends = self._map(SUMS, "<u4", len(self.lengths.values)), self._starts.tolist()
            for at in np.flatnonzero(self._done).tolist():
                self._sums[at] = self._sum(ends[at], ends[at + 1])
            self.flush()
            _write_meta(self.directory, self.lengths, self.key)
            return [f"{self.directory} is of an earlier version, without checksums: its values are believed."]
        damaged = self._damaged()
        if not damaged:
            return []
        self._done[damaged] = 0
        self.flush()
        return [
            f"{self.directory / VALUES}: the values of {len(damaged)} segments are not those that were written. "
            "They are computed again."
        ]

    def _map(self, name: str, dtype: str, size: int) -> np.ndarray:
        file, item = self.directory / name, np.dtype(dtype).itemsize
        found = file.stat().st_size if file.is_file() else 0
        if found != item * size:
            raise DamagedColumn(
                f"{found} bytes instead of {item * size}: the file is not as it was written.",
                file=file,
                remedy="Start the run that wrote it again: it computes the values again.",
            )
        return np.memmap(file, np.dtype(dtype), self._mode, shape=(size,))


class DamagedColumn(DataError):
    """A column whose description or files are not what was written."""


def _begin(directory: Path, lengths: Lengths, key: str) -> None:
    """An empty column; its description comes last."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / META).unlink(missing_ok=True)
    reserve(directory / VALUES, 4 * int(lengths.values.sum(dtype=np.int64)))
    reserve(directory / SUMS, 4 * len(lengths.values))
    reserve(directory / DONE, len(lengths.values))
    _write_meta(directory, lengths, key)


def _read_meta(directory: Path) -> dict[str, Any]:
    file = directory / META
    try:
        found = json.loads(file.read_text())
        if isinstance(found, dict) and intact(found):
            return found
        what = "is not as it was written."
    except FileNotFoundError:
        what = "is missing."
    except ValueError as error:
        what = f"cannot be read ({error})."
    raise DamagedColumn(what, file=file, remedy="Start the run that wrote it again: it computes the values again.")


def _write_meta(directory: Path, lengths: Lengths, key: str) -> None:
    temporary = directory / f"{META}.tmp"
    temporary.write_text(json.dumps(seal({**_meta(lengths, key), CHECKED: "crc32"})))
    publish(temporary, directory / META)


def _meta(lengths: Lengths, key: str) -> dict[str, str]:
    digest = hashlib.sha256(lengths.offsets.tobytes() + lengths.values.tobytes()).hexdigest()
    return {"key": key, "lengths": digest}


def reserve(path: Path, size: int) -> None:
    """A file of zeros that has its room on the disk: writing to memory that has none would end the process."""
    with writing(path), path.open("wb") as file:
        if size and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
