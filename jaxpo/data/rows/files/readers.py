"""Which reader a file's name asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jaxpo.data.rows.files import arrow, json_list, jsonl, parquet, tables, text
from jaxpo.data.rows.files.compression import OPENERS, compression_of
from jaxpo.errors import DataError

Reader = Callable[[Path], Iterator[tuple[int, Any]]]

READERS: dict[str, Reader] = {
    ".jsonl": jsonl.read,
    ".ndjson": jsonl.read,
    ".json": json_list.read,
    ".csv": tables.read,
    ".tsv": tables.read_tabs,
    ".parquet": parquet.read,
    ".arrow": arrow.read,
    ".txt": text.read,
}
ACCEPTED = f"Accepted: {', '.join(READERS)}, each also with {', '.join(OPENERS)}, or a folder of them."
PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".npy", ".npz", ".joblib")


def format_of(path: Path) -> str:
    """The suffix that says how a file is written, without that of its compression."""
    return Path(path.stem).suffix.lower() if compression_of(path) else path.suffix.lower()


def base_of(path: Path) -> str:
    """A file's name without the suffixes of its format and its compression."""
    return Path(path.stem).stem if compression_of(path) else path.stem


def is_data(path: Path) -> bool:
    """True for a file that there is a reader for."""
    return format_of(path) in READERS


def reader_of(path: Path) -> Reader:
    """The reader; DataError for a file that has none."""
    suffix = format_of(path)
    if suffix in PICKLES:
        raise DataError(
            f"{suffix} files may hold pickles, which run code when read; they are refused.",
            file=path,
            remedy="Convert it to JSONL or Parquet.",
        )
    if suffix not in READERS:
        raise DataError(f"unknown file type {path.suffix.lower() or '(no suffix)'!r}.", file=path, remedy=ACCEPTED)
    return READERS[suffix]
