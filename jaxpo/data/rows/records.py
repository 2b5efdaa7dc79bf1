"""Files to checked rows: empty ones stop it, or are counted and left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from jaxpo.data.rows.formats import Row, read_rows
from jaxpo.data.rows.requirements import Reading, take_apart
from jaxpo.data.rows.rows import Record
from jaxpo.errors import DataError, EmptyRow


def first_row(paths: Sequence[Path]) -> Row:
    """The first row that holds anything; by it is decided what is read of all of them."""
    first = next((row for row in read_rows(paths) if row.data), None)
    if first is None:
        raise DataError("every row is empty.", file=paths[0], remedy="Give rows with columns.")
    return first


def records_of(
    rows: Iterable[Row], reading: Reading, apart: bool, on_empty: Literal["error", "skip"], counts: Counter[str]
) -> Iterator[Record]:
    """Every row, checked.

    Args:
      apart: pairs are taken apart into a good and a bad row.
      counts: updated with "read" and "dropped_empty" for rows that are left out.

    Raises:
      DataError: the first row that cannot be used.
    """
    for row in rows:
        try:
            reading.check_alike(row)
            records = [reading.record(part) for part in (take_apart(row) if apart and row.data else (row,))]
        except EmptyRow:
            if on_empty == "error":
                raise
            counts["read"] += 1
            counts["dropped_empty"] += 1
            continue
        yield from records
