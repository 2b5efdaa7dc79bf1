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

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from array_record.python import array_record_module

from jaxpo.config.json_text import parse
from jaxpo.data.durable import DIGEST, crc32_of, intact, publish, seal, sync
from jaxpo.data.rows.needs import TEACHER
from jaxpo.data.tokens.dataset import Dataset
from jaxpo.data.tokens.examples import Example
from jaxpo.errors import DataError, writing


def names_of(network: str) -> tuple[str, str, str]:
    """Names of a network's columns in `Batch.per_token`, target coordinates: `[R, S, K]`, `[R, S, K]`, `[R, S]`."""
    return f"{network}_ids", f"{network}_logps", f"{network}_log_odds"


IDS, LOGPS, LOG_ODDS = names_of(TEACHER)
META, FORMAT = "meta.json", 1
_AGAIN = "Restore it from a copy, or move the folder away and make the records again."
PART_TOKENS = 1 << 18
NARROW = 1 << 16


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
        stored = parse((folder / META).read_text(encoding="utf-8"))
        if not intact(stored):
            raise DataError("is not as it was written.", file=folder / META, remedy=_AGAIN)
        meta = RecordsMeta(**{name: value for name, value in stored.items() if name != DIGEST})
        for field in fields(meta):
            value = getattr(meta, field.name)
            # `from __future__ import annotations`: types are their names.
            if type(value).__name__ != field.type or (isinstance(value, int) and not 0 < value < 2**31):
                raise ValueError(f"{field.name} is {str(value)[:60]!r}")
        return meta
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"cannot be read: {error}.", file=folder / META, remedy=_AGAIN) from error


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


def sum_file(folder: Path, part: int) -> Path:
    """Where a part's checksum and size lie; parts of an earlier version have none, and are believed."""
    return part_file(folder, part).with_suffix(".crc32")


def part_damage(folder: Path, part: int) -> str | None:
    """Why a part is not what was written; None when it is. It is read once."""
    file, told = part_file(folder, part), sum_file(folder, part)
    if not told.is_file():
        return None
    found = f"{crc32_of(file)} {file.stat().st_size}"
    return None if told.read_text(errors="replace").strip() == found else "is not as it was written."


def missing_parts(folder: Path, parts: Iterable[int], say: Callable[[str], None]) -> list[int]:
    """Those of some parts that are to be computed: the absent ones and the damaged ones, which are kept aside."""
    found = []
    for part in parts:
        file = part_file(folder, part)
        if file.is_file() and (damage := part_damage(folder, part)):
            file.replace(file.with_name(f"{file.name}.damaged"))
            say(f"warning: {file} {damage} It is kept as {file.name}.damaged, and computed again")
        if not file.is_file():
            found.append(part)
    return found


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
    temporary = folder / f".{META}.{os.getpid()}.tmp"
    temporary.write_text(json.dumps(seal(asdict(meta)), indent=1))
    publish(temporary, folder / META)


def write_part(folder: Path, part: int, meta: RecordsMeta, entries: Sequence[Taught]) -> int:
    """Write the records of a part's examples, on disk before the file gets its name; returns its size in bytes."""
    temporary = folder / f".part-{part:05d}.{os.getpid()}.tmp"
    try:
        with writing(part_file(folder, part), temporary):
            writer = array_record_module.ArrayRecordWriter(str(temporary), "group_size:1,uncompressed")
            for taught in entries:
                writer.write(encode(taught, meta))
            writer.close()
            sum_file(folder, part).write_text(f"{crc32_of(temporary)} {temporary.stat().st_size}\n")
            sync(sum_file(folder, part))
            publish(temporary, part_file(folder, part))
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
