"""Read rows from JSONL, JSON, Parquet, Arrow and text files, or folders of them. Every error names file and line."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from jaxpo.errors import DataError

ACCEPTED = "Accepted: .jsonl, .jsonl.gz, .json, .parquet, .arrow, .txt, or a folder of them."
PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".npy", ".npz", ".joblib")


@dataclass(frozen=True)
class Row:
    """One row of a file; `number` counts from 1 and is the line number in a JSONL file."""

    file: Path
    number: int
    data: dict[str, Any]

    def error(self, message: str, *, field: str | None = None, remedy: str | None = None) -> DataError:
        """A DataError that says where this row is."""
        return DataError(message, file=self.file, row=self.number, field=field, remedy=remedy)


def read_rows(files: Iterable[str | Path]) -> Iterator[Row]:
    """All rows of files and folders, in order; columns whose value is null are left out.

    Raises:
      DataError: missing or empty file, unknown suffix, pickle, broken line; names file and line.
    """
    for file in list_files(files):
        empty = True
        for row in _reader(file)(file):
            empty = False
            yield row
        if empty:
            raise DataError("the file holds no rows.", file=file, remedy="Remove it from the list or fill it.")


def list_files(files: Iterable[str | Path]) -> list[Path]:
    """Expand folders (recursively, sorted by path); every file is checked to exist and to have a known suffix."""
    found: list[Path] = []
    for name in files:
        path = Path(name)
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
            usable = [p for p in inside if _suffix(p) in _READERS and p.name not in _FOLDER_NOTES]
            if not usable:
                raise DataError("the folder holds no data file.", file=path, remedy=ACCEPTED)
            found += usable
        elif path.is_file():
            _reader(path)
            found.append(path)
        else:
            raise DataError("no such file or folder.", file=path, remedy="Check the path in data.train / data.eval.")
    if not found:
        raise DataError("no data files are named.", remedy="Set data.train to a JSONL, Parquet or text file.")
    return found


def content_hash(files: Iterable[Path]) -> str:
    """sha256 over the contents of the files, in order; names do not matter."""
    whole = hashlib.sha256()
    for file in files:
        whole.update(bytes.fromhex(file_hash(file)))
    return whole.hexdigest()


def file_hash(file: Path) -> str:
    """sha256 over the content of one file; read once by a process, as long as the file stays as it is."""
    stat = file.stat()
    return _file_hash(file, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=1024)
def _file_hash(file: Path, size: int, changed: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _suffix(path: Path) -> str:
    name = path.name.lower()
    return ".jsonl.gz" if name.endswith(".jsonl.gz") else path.suffix.lower()


def _reader(path: Path) -> Callable[[Path], Iterator[Row]]:
    suffix = _suffix(path)
    if suffix in PICKLES:
        raise DataError(
            f"{suffix} files may hold pickles, which run code when read; they are refused.",
            file=path,
            remedy="Convert it to JSONL or Parquet.",
        )
    if suffix not in _READERS:
        raise DataError(f"unknown file type {suffix or '(no suffix)'!r}.", file=path, remedy=ACCEPTED)
    return _READERS[suffix]


def _read_jsonl(file: Path) -> Iterator[Row]:
    with gzip.open(file, "rb") if file.name.lower().endswith(".gz") else file.open("rb") as stream:
        lines = enumerate(stream, start=1)
        while True:
            try:
                number, raw = next(lines)
            except StopIteration:
                return
            except (OSError, EOFError) as error:
                raise DataError(f"cannot be read: {error}.", file=file, remedy="Copy the file again.") from error
            if raw.strip():
                yield _row(file, number, _parse(file, number, raw))


def _parse(file: Path, number: int, raw: bytes) -> Any:
    try:
        return json.loads(raw.rstrip())
    except UnicodeDecodeError as error:
        raise DataError(f"line {number} is not UTF-8: {error}.", file=file, row=number) from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"line {number} is not valid JSON: {error.msg} at column {error.colno}.",
            file=file,
            row=number,
            remedy="Each line must be one complete JSON object.",
        ) from error


def _read_json(file: Path) -> Iterator[Row]:
    try:
        rows = json.loads(file.read_bytes() or b"[]")
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(
            f"not valid JSON: {error}.", file=file, remedy="One object per line? Name it .jsonl."
        ) from error
    if not isinstance(rows, list):
        raise DataError("a .json file must hold a list of objects.", file=file, remedy="Or write JSONL.")
    for number, data in enumerate(rows, start=1):
        yield _row(file, number, data)


def _row(file: Path, number: int, data: Any) -> Row:
    if not isinstance(data, dict):
        raise DataError(
            f"expected a JSON object with columns, found {type(data).__name__}.",
            file=file,
            row=number,
            remedy='For example {"text": "..."}.',
        )
    return Row(file, number, {name: value for name, value in data.items() if value is not None})


def _read_parquet(file: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if file.stat().st_size == 0:
        return
    try:
        with pq.ParquetFile(file) as table:
            yield from _arrow_rows(file, table.iter_batches(batch_size=1024))
    except pa.ArrowException as error:
        raise DataError(f"not a readable Parquet file: {error}.", file=file, remedy="Write it again.") from error


def _read_arrow(file: Path) -> Iterator[Row]:
    """The stream files that `datasets.save_to_disk` writes."""
    import pyarrow as pa

    if file.stat().st_size == 0:
        return
    try:
        with pa.memory_map(str(file)) as source:
            yield from _arrow_rows(file, pa.ipc.open_stream(source))
    except pa.ArrowException as error:
        raise DataError(f"not a readable Arrow stream: {error}.", file=file, remedy="Write it again.") from error


def _arrow_rows(file: Path, batches: Iterable[Any]) -> Iterator[Row]:
    number = 0
    for batch in batches:
        for data in batch.to_pylist():
            number += 1
            yield _row(file, number, data)


def _read_text(file: Path) -> Iterator[Row]:
    """One document per file."""
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8: {error}.", file=file, remedy="Convert it to UTF-8.") from error
    if text.strip():
        yield Row(file, 1, {"text": text})


_READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _read_jsonl,
    ".jsonl.gz": _read_jsonl,
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
    ".txt": _read_text,
}
# What `datasets.save_to_disk` and hub downloads put beside the data.
_FOLDER_NOTES = ("dataset_info.json", "dataset_dict.json", "state.json", "dataset_infos.json")
