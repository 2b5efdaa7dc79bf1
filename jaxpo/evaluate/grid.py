"""Shares over two axes, as text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Grid:
    """A table of numbers from 0 to 1.

    Attributes:
      title: what they are.
      row, column: what the axes are.
      rows, columns: labels.
      values: `[len(rows)][len(columns)]`; None where nothing was measured.
    """

    title: str
    row: str
    rows: tuple[str, ...]
    column: str
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]

    def lines(self) -> list[str]:
        """The title, the columns' labels, and a line per row."""
        told = [[shown(value) for value in row] for row in self.values]
        table = [[f"{self.row} \\ {self.column}", *self.columns]]
        table += [[label, *row] for label, row in zip(self.rows, told, strict=True)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        return [self.title, *("  ".join(map(str.rjust, row, widths)) for row in table)]


def shown(value: float | None) -> str:
    """Two digits; a dash where nothing was measured."""
    return "-" if value is None else f"{value:.2f}"
