"""The files of tasks: rows with the columns that a task needs, every mistake with file, row and field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from jaxpo.data.rows.formats import Row, read_rows
from jaxpo.errors import DataError, did_you_mean

T = TypeVar("T")


def task_rows(task: str, source: str, columns: Mapping[str, str], needs: str) -> list[Row]:
    """Rows of a file (JSONL, Parquet, CSV, ...), each with these columns.

    Args:
      task: its name, for messages.
      source: the file.
      columns: name of a column -> what it holds.
      needs: what the task's file is, `Task.NEEDS`.

    Raises:
      DataError: no such file, an empty one, or a row without a column.
    """
    rows = list(read_rows([present(task, source, needs)], part="eval"))
    for row in rows:
        for name, meaning in columns.items():
            if name not in row.data:
                hint = did_you_mean(name, row.data)
                remedy = f"It holds {meaning}.{hint} The task {task} needs {needs}."
                raise row.error(f"column {name!r} is missing.", field=name, remedy=remedy)
    return rows


def present(task: str, source: str, needs: str) -> Path:
    """The path of a task's file; DataError when there is none."""
    if not Path(source).exists():
        raise DataError("there is no such file.", file=source, remedy=f"The task {task} needs {needs}.")
    return Path(source)


def text_in(row: Row, name: str) -> str:
    """A column that must be a text, not an empty one."""
    value: Any = row.data[name]
    if not isinstance(value, str):
        raise row.error(f"must be a text, found {type(value).__name__}.", field=name)
    if not value.strip():
        raise row.error("is empty.", field=name, remedy="Fill it or remove the row.")
    return value


def place(row: Row) -> str:
    """Where a row stands, as `Ask.where`."""
    return f"{row.file}, row {row.number}"


def spaced(items: Sequence[T], limit: int | None) -> list[T]:
    """All, or `limit` of them evenly spaced."""
    if limit is None or len(items) <= limit:
        return list(items)
    return [items[i * len(items) // limit] for i in range(limit)]
