"""Rows of files in any format that `jaxpo.data.rows.files` reads. Every error names file and row."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from jaxpo.data.rows.bad_rows import Bad, refuse
from jaxpo.data.rows.files.compression import DAMAGE, compression_of
from jaxpo.data.rows.files.listing import Say, list_files, to_stderr
from jaxpo.data.rows.files.readers import format_of, reader_of
from jaxpo.data.rows.files.splits import Part
from jaxpo.errors import DataError, EmptyRow

__all__ = ["Row", "content_hash", "forms_of", "list_files", "read_rows"]
_BEFORE_TEXT = b"\xef\xbb\xbf\xff\xfe\x00 \t\r\n"  # byte order marks, white space, halves of UTF-16


@dataclass(frozen=True)
class Row:
    """One row of a file; `number` counts from 1 and is the line number in a JSONL file."""

    file: Path
    number: int
    data: dict[str, Any]

    def error(self, message: str, *, field: str | None = None, remedy: str | None = None) -> DataError:
        """A DataError that says where this row is."""
        return DataError(message, file=self.file, row=self.number, field=field, remedy=remedy)

    def placed(self, error: DataError, *, field: str | None = None) -> DataError:
        """An error about this row as one that says where it is; one that names a file says it already."""
        if error.file is not None:
            return error
        return self.error(error.message, field=error.field or field, remedy=error.remedy)

    def empty(self, message: str, *, field: str | None = None) -> EmptyRow:
        """The error for a row that there is nothing to learn from, which `data.on_empty` may leave out instead."""
        remedy = "Fill it or remove it; a stage counts such rows and leaves them out with `--data.on-empty skip`."
        return EmptyRow(message, file=self.file, row=self.number, field=field, remedy=remedy)


def read_rows(
    files: Iterable[str | Path], *, part: Part = "train", say: Say = to_stderr, bad: Bad = refuse
) -> Iterator[Row]:
    """All rows of files and folders, in order; columns whose value is null are left out.

    Args:
      part: which split of a folder is meant.
      say: receives what of a folder is not read.
      bad: receives the error of a row that cannot be parsed; the row is left out when it returns.

    Raises:
      DataError: missing or empty file, unknown suffix, pickle, broken line; names file and line.
    """
    for file in list_files(files, part=part, say=say):
        empty = True
        for row in _rows_of(file, bad):
            empty = False
            yield row
        if empty:
            raise DataError("the file holds no rows.", file=file, remedy="Remove it from the list or fill it.")


def content_hash(files: Iterable[Path]) -> str:
    """sha256 over the contents of the files, in order; names do not matter."""
    whole = hashlib.sha256()
    for file in files:
        whole.update(bytes.fromhex(file_hash(file)))
    return whole.hexdigest()


def forms_of(files: Iterable[Path]) -> list[str]:
    """How files are read that another reader would make other rows of, for a hash; [] where there are none.

    JSON in a .txt file is a document, the lines of a .csv file rows. Of all others the contents say it.
    """
    forms = [format_of(file) if _is_ambiguous(file) else "" for file in files]
    return forms if any(forms) else []


def _is_ambiguous(file: Path) -> bool:
    form = format_of(file)
    if form != ".txt" or compression_of(file):
        return form in (".csv", ".tsv", ".txt")
    with file.open("rb") as stream:
        return stream.read(256).lstrip(_BEFORE_TEXT)[:1] in (b"{", b"[")


def file_hash(file: Path) -> str:
    """sha256 over the content of one file; read once by a process, as long as the file stays as it is."""
    stat = file.stat()
    return _file_hash(file, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=1024)
def _file_hash(file: Path, size: int, changed: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _rows_of(file: Path, bad: Bad) -> Iterator[Row]:
    try:
        for number, data in reader_of(file)(file):
            # Readers that can go on after a row that is broken give its error for it.
            found = data if isinstance(data, DataError) else _row(file, number, data)
            if isinstance(found, DataError):
                bad(found)
            else:
                yield found
    except DAMAGE as error:
        said = getattr(error, "strerror", None) or error
        remedy = "Copy the file again, and see that it may be read."
        raise DataError(f"cannot be read: {said}.", file=file, remedy=remedy) from error


def _row(file: Path, number: int, data: Any) -> Row | DataError:
    if not isinstance(data, dict):
        return DataError(
            f"expected a JSON object with columns, found {type(data).__name__}.",
            file=file,
            row=number,
            remedy='For example {"text": "..."}.',
        )
    return Row(file, number, {name: value for name, value in data.items() if value is not None})
