"""Rows of a file, looked up by the value of one column."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from jaxpo.data.rows.formats import read_rows
from jaxpo.errors import ConfigError
from jaxpo.tools.base import Tool, ToolError


@dataclass(frozen=True)
class Table(Tool):
    """`table` of a file: its first column is what rows are looked up by.

    Attributes:
      file: of any format that rows are read from.
    """

    file: str = ""

    NAME: ClassVar[str] = "table"
    USE: ClassVar[str] = "what stands in the first column of a row; gives its other columns."

    def check(self) -> None:
        """ConfigError where the file is not there; DataError where it cannot be read."""
        if not Path(self.file).is_file():
            raise ConfigError(f"the tool table: there is no file {self.file!r}.")
        _rows(self.file)

    def call(self, text: str) -> str:
        row = _rows(self.file).get(_key(text))
        if row is None:
            raise ToolError(f"there is no row {text!r}")
        return ", ".join(f"{name}: {value}" for name, value in row.items())


@functools.lru_cache(maxsize=8)
def _rows(file: str) -> dict[str, dict[str, Any]]:
    """First column's value -> the other columns; of equal ones the first row."""
    found: dict[str, dict[str, Any]] = {}
    for row in read_rows([file]):
        (_, value), *others = row.data.items()
        found.setdefault(_key(str(value)), dict(others))
    return found


def _key(text: str) -> str:
    return " ".join(text.lower().split())
