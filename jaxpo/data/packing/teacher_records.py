"""A teacher's K likeliest tokens at every supervised token of a dataset, on disk: one ArrayRecord entry per example.

The records belong to the examples, not to a packing, so every plan of the dataset reads them. A token takes
K (2 + 2) + 4 bytes: ids in 16 bits (32 where the vocabulary needs them), log-probabilities (the logits less their
float32 log-normaliser) in bfloat16, and the log-odds of their mass in float32. The log-odds stand where the
log-normaliser might: after its subtraction that is 0, whereas the tail's mass, a small difference of rounded numbers,
cannot be had from the rest.

The examples are cut into parts, each a file that appears only when it is complete. So an interrupted job goes on at its
last part, and several machines share the parts among them.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from array_record.python import array_record_module

from jaxpo.data.tokens.dataset import Dataset
from jaxpo.data.tokens.examples import Example
from jaxpo.errors import DataError

IDS, LOGPS, LOG_ODDS = "teacher_ids", "teacher_logps", "teacher_log_odds"
"""Names of the columns in `Batch.per_token`, target coordinates: `[R, S, K]`, `[R, S, K]`, `[R, S]`."""
META, FORMAT = "meta.json", 1
PART_TOKENS = 1 << 18
NARROW = 1 << 16
OPEN_FILES = 64


def id_dtype(vocab_size: int) -> np.dtype[Any]:
    """Stored ids have 16 bits where they suffice."""
    return np.dtype("<u2" if vocab_size <= NARROW else "<u4")


class Taught(NamedTuple):
    """Records of n tokens: ids `[n, K]`, log-probabilities `[n, K]`, log-odds `[n]`."""

    ids: np.ndarray
    logps: np.ndarray
    log_odds: np.ndarray


@dataclass(frozen=True)
class RecordsMeta:
    """What the records of a folder were made from.

    Attributes:
      dataset: `Dataset.hash`, which covers files, tokenizer, template and truncation.
      tokenizer: its hash.
      teacher: fingerprint of the parameters.
      vocab_size: V of the teacher's logits.
      k: ids per token.
      compute: dtype that the teacher was run in.
      examples: of the dataset.
      part_tokens: tokens of the dataset per part, about.
    """

    dataset: str
    tokenizer: str
    teacher: str
    vocab_size: int
    k: int
    compute: str
    examples: int
    part_tokens: int = PART_TOKENS
    format: int = FORMAT

    @property
    def key(self) -> str:
        """Hash of all of it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @property
    def layout(self) -> tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...]:
        """Name, stored dtype and trailing shape of the three columns."""
        half = np.dtype(ml_dtypes.bfloat16)
        return (IDS, id_dtype(self.vocab_size), (self.k,)), (LOGPS, half, (self.k,)), (LOG_ODDS, np.dtype("<f4"), ())

    @property
    def bytes_per_token(self) -> int:
        """132 for K = 32 and a vocabulary of at most 65,536."""
        return sum(dtype.itemsize * (shape[0] if shape else 1) for _, dtype, shape in self.layout)


# What is wrong when a field differs, in the order in which it is said.
_DIFFERS = {
    "format": "were written in another format",
    "vocab_size": "come from a teacher with another vocabulary",
    "tokenizer": "were made with another tokenizer",
    "dataset": "were made from other files, or with another template, length or truncation",
    "examples": "were made from other files, or with another template, length or truncation",
    "k": "hold another number of ids per token",
    "teacher": "come from another teacher",
    "compute": "were computed in another dtype",
    "part_tokens": "are cut into parts of another size",
}


def difference(stored: RecordsMeta, wanted: Mapping[str, Any]) -> str | None:
    """Why records are not the wanted ones, naming the first field that differs; None when they are."""
    for name, words in _DIFFERS.items():
        if name in wanted and getattr(stored, name) != wanted[name]:
            return f"these records {words} ({name} {_short(getattr(stored, name))}, not {_short(wanted[name])})."
    return None


def _short(value: Any) -> str:
    return f"{value[:12]}..." if isinstance(value, str) and len(value) > 16 else str(value)


def read_meta(folder: Path) -> RecordsMeta:
    """What a folder's records were made from; DataError when it holds none."""
    if not (folder / META).is_file():
        raise DataError("holds no teacher records.", file=folder, remedy="Write them with `jaxpo data teach`.")
    try:
        return RecordsMeta(**json.loads((folder / META).read_text()))
    except (json.JSONDecodeError, TypeError) as error:
        raise DataError(f"cannot be read: {error}.", file=folder / META, remedy="Delete the folder.") from error


def recorded(example: Example) -> list[np.ndarray]:
    """Per segment, the positions that have a record: the supervised tokens that have a predecessor."""
    return [np.flatnonzero(s.supervised[1:]) + 1 for s in example.segments]


def parts_of(dataset: Dataset, part_tokens: int) -> list[range]:
    """Consecutive examples of about `part_tokens` tokens."""
    lengths = dataset.lengths
    ends = np.concatenate([[0], np.cumsum(lengths.values, dtype=np.int64)])[lengths.offsets]
    part = ends[:-1] // part_tokens  # of every example, by where it starts
    cuts = [0, *(np.flatnonzero(np.diff(part)) + 1).tolist(), len(dataset)]
    return [range(a, b) for a, b in itertools.pairwise(cuts)]


def part_file(folder: Path, part: int) -> Path:
    """Where a part lies when it is complete."""
    return folder / f"part-{part:05d}.array_record"


def start_records(folder: Path, meta: RecordsMeta) -> None:
    """Make the folder, or make sure that what lies there are the same records.

    Raises:
      DataError: they are of another teacher, dataset or setting.
    """
    if (folder / META).is_file():
        if reason := difference(read_meta(folder), asdict(meta)):
            raise DataError(reason, file=folder, remedy="Choose another folder, or delete this one.")
        return
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{META}.{os.getpid()}"
    temporary.write_text(json.dumps(asdict(meta), indent=1))
    temporary.replace(folder / META)


def write_part(folder: Path, part: int, meta: RecordsMeta, entries: Sequence[Taught]) -> int:
    """Write the records of a part's examples, on disk before the file gets its name; returns its size in bytes."""
    temporary = folder / f".part-{part:05d}.{os.getpid()}"
    try:
        writer = array_record_module.ArrayRecordWriter(str(temporary), "group_size:1,uncompressed")
        for taught in entries:
            writer.write(encode(taught, meta))
        writer.close()
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(part_file(folder, part))
    finally:
        temporary.unlink(missing_ok=True)
    return part_file(folder, part).stat().st_size


def encode(taught: Taught, meta: RecordsMeta) -> bytes:
    """The three columns of one example, one after another."""
    return b"".join(
        np.ascontiguousarray(values).astype(dtype, copy=False).tobytes()
        for values, (_, dtype, _) in zip(taught, meta.layout, strict=True)
    )


def decode(payload: bytes, meta: RecordsMeta) -> Taught:
    """Inverse of `encode`; ValueError when the length is no whole number of tokens."""
    n, rest = divmod(len(payload), meta.bytes_per_token)
    if rest:
        raise ValueError(f"{len(payload)} bytes are no whole number of tokens of {meta.bytes_per_token} bytes")
    columns, start = [], 0
    for _, dtype, shape in meta.layout:
        size = n * (shape[0] if shape else 1)
        columns.append(np.frombuffer(payload, dtype, size, start).reshape(n, *shape))
        start += size * dtype.itemsize
    return Taught(*columns)


class TeacherRecords:
    """The complete records of a dataset, read by example number. Safe to read from several threads.

    Args:
      folder: where `jaxpo data teach` or a stage wrote them.
      dataset: whose examples they belong to.
      wanted: further fields of `RecordsMeta` that they must have ("k", "vocab_size", "teacher").

    Raises:
      DataError: they belong to another dataset, teacher or vocabulary, or are incomplete; with the reason.
    """

    def __init__(self, folder: Path, dataset: Dataset, **wanted: Any):
        self.folder, self.meta = folder, read_meta(folder)
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

    def _open(self, part: int) -> Any:
        file, remedy = part_file(self.folder, part), "Delete the file and run `jaxpo data teach` again."
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

    def empty(self, shape: tuple[int, int]) -> dict[str, np.ndarray]:
        """The columns of a batch without any record."""
        return {name: np.zeros((*shape, *more), dtype) for name, dtype, more in self.meta.layout}

    @contextlib.contextmanager
    def _explained(self, part: int | None) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, ValueError) as error:
            file = self.folder if part is None else part_file(self.folder, part)
            raise DataError(
                f"cannot be read: {error}.", file=file, remedy="Delete the file and make it again."
            ) from error


def check_meta(folder: Path, meta: RecordsMeta, dataset: Dataset, **wanted: Any) -> None:
    """DataError when records are not those of this dataset, with the reason."""
    asked = {"format": FORMAT, "tokenizer": dataset.tokenizer.hash, "dataset": dataset.hash, "examples": len(dataset)}
    if reason := difference(meta, asked | wanted):
        raise DataError(
            reason,
            file=folder,
            remedy="Make records of this data with this teacher: `jaxpo data teach` with the stage's data settings.",
        )


def fill(columns: Mapping[str, np.ndarray], taught: Taught, example: Example, rows: Any, starts: Any) -> None:
    """Put an example's records into the columns of a batch: segment s lies in `rows[s]` from `starts[s]` on."""
    at = 0
    for positions, row, start in zip(recorded(example), rows, starts, strict=True):
        n = len(positions)
        for name, values in zip((IDS, LOGPS, LOG_ODDS), taught, strict=True):
            columns[name][row, start + positions] = values[at : at + n]
        at += n
    if at != len(taught.log_odds):
        raise DataError(
            f"{at} supervised tokens have records of {len(taught.log_odds)}: a part is not where it belongs.",
            row=example.row,
            field="teacher records",
            remedy="Delete the records' folder and make them again.",
        )
