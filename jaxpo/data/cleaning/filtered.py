"""Rows through a filter into a JSONL file, with a second file that says why each of the others was left out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.json_lines import check_output, pending


class Reason(Protocol):
    """Why a row is left out."""

    def record(self, row: Row) -> dict[str, Any]: ...


def report_path(out: Path) -> Path:
    """`rows.jsonl` -> `rows.removed.jsonl`."""
    return out.with_name(f"{out.name.removesuffix('.jsonl')}.removed.jsonl")


def write_filtered(judged: Iterable[tuple[Row, Reason | None]], out: Path) -> Counter[str]:
    """Stream the kept rows to `out` and one line per removed row beside it; both appear when the last row is written.

    Returns:
      Counts: read, kept, removed, and per `kind` of the reasons that have one.

    Raises:
      DataError: a value that JSON cannot hold; names file, row and column.
    """
    check_output(out, report_path(out))
    counts: Counter[str] = Counter(read=0, kept=0, removed=0)
    with pending(out) as kept, pending(report_path(out)) as removed:
        for row, reason in judged:
            counts["read"] += 1
            if reason is None:
                counts["kept"] += 1
                kept.write(_line(row) + "\n")
                continue
            record = reason.record(row)
            counts["removed"] += 1
            if "kind" in record:
                counts[record["kind"]] += 1
            removed.write(json.dumps(record, ensure_ascii=False) + "\n")
    return counts


def _line(row: Row) -> str:
    try:
        return json.dumps(row.data, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError):
        for name, value in row.data.items():
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError) as error:
                raise row.error(
                    f"JSON cannot hold this value ({error}).", field=name, remedy="Convert or drop the column."
                ) from None
        raise
