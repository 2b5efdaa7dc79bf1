"""The complete teacher records of a dataset, as per-token columns of its batches."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python import array_record_module

from jaxpo.data.packing.columns import PerSegment
from jaxpo.data.packing.teacher_records import (
    FORMAT,
    RecordsMeta,
    Taught,
    decode,
    difference,
    names_of,
    part_damage,
    part_file,
    parts_of,
    read_meta,
    recorded,
)
from jaxpo.data.rows.needs import TEACHER
from jaxpo.data.tokens.dataset import Dataset
from jaxpo.data.tokens.examples import Example
from jaxpo.data.tokens.layout import Layout
from jaxpo.errors import DataError

OPEN_FILES = 64
REMEDY = "Restore it from a copy, or run `jaxpo data teach`, or its run, again, which computes the part again."


class TeacherRecords:
    """The complete records of a dataset, read by example number. Safe to read from several threads.

    Args:
      folder: where `jaxpo data teach` or a stage wrote them.
      dataset: whose examples they belong to.
      network: the columns are named after it.
      wanted: further fields of `RecordsMeta` that they must have ("k", "vocab_size", "teacher").

    Raises:
      DataError: they belong to another dataset, teacher or vocabulary, or are incomplete; with the reason.
    """

    def __init__(self, folder: Path, dataset: Dataset, network: str = TEACHER, **wanted: Any):
        self.folder, self.network, self.meta = folder, network, read_meta(folder)
        check_meta(folder, self.meta, dataset, **wanted)
        self._parts = parts_of(dataset, self.meta.part_tokens)
        self._part_of = np.repeat(np.arange(len(self._parts)), [len(p) for p in self._parts])
        absent = [i for i in range(len(self._parts)) if not part_file(folder, i).is_file()]
        if absent:
            raise DataError(
                f"{len(absent)} of {len(self._parts)} parts are missing (part {absent[0]} first).",
                file=folder,
                remedy="Run the same `jaxpo data teach` again, for every shard: it goes on where it stopped.",
            )
        for i in range(len(self._parts)):
            self._check(i)
            self._open(i)
        self._readers: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()

    def _reader(self, part: int) -> Any:
        """An open reader; a large data set has more parts than a process may hold files."""
        with self._lock:
            if part not in self._readers:
                self._readers[part] = self._open(part)
            self._readers.move_to_end(part)
            while len(self._readers) > OPEN_FILES:
                self._readers.popitem(last=False)
            return self._readers[part]

    def _check(self, part: int) -> None:
        if damage := part_damage(self.folder, part):
            raise DataError(damage, file=part_file(self.folder, part), remedy=REMEDY)

    def _open(self, part: int) -> Any:
        file, remedy = part_file(self.folder, part), REMEDY
        try:
            reader = array_record_module.ArrayRecordReader(str(file), "readahead_buffer_size:0")
            found = reader.num_records()
        except (RuntimeError, ValueError) as error:
            raise DataError(f"cannot be read: {error}.", file=file, remedy=remedy) from error
        if found != len(self._parts[part]):
            raise DataError(f"holds {found} of {len(self._parts[part])} examples.", file=file, remedy=remedy)
        return reader

    def read(self, examples: Sequence[int]) -> list[Taught]:
        """Records of these examples, segments one after another."""
        found: dict[int, bytes] = {}
        numbers = np.asarray(examples, np.int64)
        for part in np.unique(self._part_of[numbers]) if len(numbers) else ():
            inside = numbers[self._part_of[numbers] == part]
            with self._explained(int(part)):
                payloads = self._reader(int(part)).read((inside - self._parts[part].start).tolist())
            found |= zip(inside.tolist(), payloads, strict=True)
        with self._explained(None):
            return [decode(found[int(e)], self.meta) for e in numbers]

    @property
    def layout(self) -> Layout:
        """Names, stored dtypes and trailing shapes of the columns."""
        columns = zip(names_of(self.network), self.meta.layout, strict=True)
        return {name: (dtype, shape) for name, (_, dtype, shape) in columns}

    def of_examples(self, numbers: Sequence[int], examples: Sequence[Example]) -> Iterator[PerSegment]:
        """The records as per-token columns, zero at tokens without one."""
        for taught, example in zip(self.read(numbers), examples, strict=True):
            yield self._in_place(taught, example)

    def _in_place(self, taught: Taught, example: Example) -> PerSegment:
        places = recorded(example)
        ends = np.cumsum([0, *map(len, places)])
        if ends[-1] != len(taught.log_odds):
            raise example.error(
                f"{ends[-1]} supervised tokens have records of {len(taught.log_odds)}: a part is not where it belongs.",
                field="teacher records",
                remedy="Delete the records' folder and make them again.",
            )
        found = []
        for segment, at, (first, last) in zip(example.segments, places, itertools.pairwise(ends), strict=True):
            columns = {n: np.zeros((len(segment.tokens), *shape), dtype) for n, (dtype, shape) in self.layout.items()}
            for column, values in zip(columns.values(), taught, strict=True):
                column[at] = values[first:last]
            found.append(columns)
        return found

    @contextlib.contextmanager
    def _explained(self, part: int | None) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, ValueError) as error:
            file = self.folder if part is None else part_file(self.folder, part)
            raise DataError(f"cannot be read: {error}.", file=file, remedy=REMEDY) from error


def check_meta(folder: Path, meta: RecordsMeta, dataset: Dataset, **wanted: Any) -> None:
    """DataError when records are not those of this dataset, with the reason."""
    asked = {"format": FORMAT, "tokenizer": dataset.tokenizer.hash, "dataset": dataset.hash, "examples": len(dataset)}
    if reason := difference(meta, asked | wanted):
        raise DataError(
            reason,
            file=folder,
            remedy="Make records of this data with this teacher: `jaxpo data teach` with the stage's data settings.",
        )
