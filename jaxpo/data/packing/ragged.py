"""Per-token float32 values of every segment of a dataset, in one memory-mapped file that can be filled bit by bit."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxpo.data.packing.columns import PerSegment
from jaxpo.data.tokens.examples import Example
from jaxpo.data.tokens.layout import Layout
from jaxpo.data.tokens.store import Lengths
from jaxpo.errors import DataError, writing

REF_LOGPS = "ref_logps"


class RaggedColumn:
    """One float32 per token of every segment: log-probs, of which entry 0 is 0, or values. Entry t belongs to token t.

    Values and a done-flag per segment are written in place, so an interrupted job goes on where it stopped.

    Attributes:
      name: of the column in `Batch.per_token`; not stored.
    """

    def __init__(self, directory: Path, lengths: Lengths, key: str, *, writable: bool, name: str = REF_LOGPS):
        self.directory, self.lengths, self.key, self.name = directory, lengths, key, name
        meta = directory / "meta.json"
        expected = _meta(lengths, key)
        if not meta.is_file() or json.loads(meta.read_text()) != expected:
            raise DataError(
                "these per-token values belong to another model, dataset or setting.",
                file=directory,
                remedy="Delete the folder to compute them again.",
            )
        self._starts = np.concatenate([[0], np.cumsum(lengths.values, dtype=np.int64)])
        mode: Literal["r", "r+"] = "r+" if writable else "r"
        self._values = _map(directory / "values.f32", np.dtype("<f4"), int(self._starts[-1]), mode)
        self._done = _map(directory / "done.u8", np.dtype("u1"), len(lengths.values), mode)

    @classmethod
    def create(cls, path: str | Path, lengths: Lengths, key: str, name: str = REF_LOGPS) -> RaggedColumn:
        """An empty column, or the existing one with the same key, ready to go on writing.

        Raises:
          DataError: the folder holds a column with another key.
        """
        directory = Path(path)
        if not (directory / "meta.json").is_file():
            directory.mkdir(parents=True, exist_ok=True)
            _reserve(directory / "values.f32", 4 * int(lengths.values.sum(dtype=np.int64)))
            _reserve(directory / "done.u8", len(lengths.values))
            temporary = directory / "meta.json.tmp"
            temporary.write_text(json.dumps(_meta(lengths, key)))
            temporary.replace(directory / "meta.json")
        return cls(directory, lengths, key, writable=True, name=name)

    @classmethod
    def open(cls, path: str | Path, lengths: Lengths, key: str, name: str = REF_LOGPS) -> RaggedColumn:
        """An existing column, read-only; DataError when it is absent or has another key."""
        return cls(Path(path), lengths, key, writable=False, name=name)

    def write(self, example: int, segment: int, values: np.ndarray) -> None:
        """Store one segment's values, `[length]`."""
        at, start, end = self._place(example, segment)
        if len(values) != end - start:
            raise ValueError(f"example {example}, segment {segment} has {end - start} tokens, not {len(values)}")
        self._values[start:end] = values
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
        for array in (self._values, self._done):
            assert isinstance(array, np.memmap)
            array.flush()

    def _place(self, example: int, segment: int) -> tuple[int, int, int]:
        at = int(self.lengths.offsets[example]) + segment
        return at, int(self._starts[at]), int(self._starts[at + 1])


def _map(file: Path, dtype: np.dtype[Any], size: int, mode: Literal["r", "r+"]) -> np.ndarray:
    found = file.stat().st_size if file.is_file() else 0
    if found != dtype.itemsize * size:
        raise DataError(
            f"{found} bytes instead of {dtype.itemsize * size}: the file is truncated.",
            file=file,
            remedy="Delete its folder to compute the values again.",
        )
    return np.memmap(file, dtype, mode, shape=(size,))


def _meta(lengths: Lengths, key: str) -> dict[str, str]:
    digest = hashlib.sha256(lengths.offsets.tobytes() + lengths.values.tobytes()).hexdigest()
    return {"key": key, "lengths": digest}


def _reserve(path: Path, size: int) -> None:
    """A file of zeros that has its room on the disk: writing to memory that has none would end the process."""
    with writing(path), path.open("wb") as file:
        if size and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
