"""Files to checked rows: empty ones stop it, or are counted and left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal

from jaxpo.data.rows.bad_rows import Bad, refuse
from jaxpo.data.rows.formats import Row, read_rows
from jaxpo.data.rows.requirements import Reading, take_apart
from jaxpo.data.rows.rows import Record, detect
from jaxpo.errors import DataError, EmptyRow

AHEAD = 1000
"""Rows that are looked through for a whole one."""


def first_row(paths: Sequence[Path], bad: Bad = refuse) -> Row:
    """The first row that holds anything; by it is decided what is read of all of them.

    One that lacks what is learnt gives way to the next that has it, and all of its columns; or any others, where bad
    rows are left out.
    """
    rows = (row for row in read_rows(paths, bad=bad) if row.data)
    first = next(rows, None)
    if first is None:
        raise DataError("every row is empty.", file=paths[0], remedy="Give rows with columns.")
    if _has_answers(first):
        return first
    ahead = islice(rows, AHEAD)
    fuller = ahead if bad is not refuse else (row for row in ahead if row.data.keys() > first.data.keys())
    return next(filter(_has_answers, fuller), first)


def _has_answers(row: Row) -> bool:
    try:
        return detect(row) != "prompt"
    except DataError:
        return False


def records_of(
    rows: Iterable[Row],
    reading: Reading,
    apart: bool,
    on_empty: Literal["error", "skip"],
    counts: Counter[str],
    bad: Bad = refuse,
) -> Iterator[Record]:
    """Every row, checked.

    Args:
      apart: pairs are taken apart into a good and a bad row.
      counts: updated with "read" and "dropped_empty" for rows that are left out.
      bad: receives the error of a row that cannot be used; the row is left out when it returns.

    Raises:
      DataError: the first row that cannot be used.
    """
    for row in rows:
        try:
            reading.check_alike(row)
            reading.check_filled(row)
            records = [
                reading.record(part) for part in (take_apart(row, pictures=reading.pictures) if apart else (row,))
            ]
        except DataError as error:
            counts["read"] += 1
            if on_empty == "skip" and type(error) is EmptyRow:
                counts["dropped_empty"] += 1
            else:
                bad(error)
            continue
        yield from records
