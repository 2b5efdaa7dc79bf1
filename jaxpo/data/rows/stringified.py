"""Messages that were written into a string: read where no list can stand, refused where they would be a text."""

from __future__ import annotations

import re
from typing import Any

from jaxpo.config.json_text import parse
from jaxpo.data.rows.files.readers import format_of
from jaxpo.data.rows.formats import Row
from jaxpo.errors import DataError

COLUMNS = (
    "messages",
    "prompt",
    "completion",
    "chosen",
    "rejected",
    "gold",
    "calibration",
    "prompt_chosen",
    "prompt_rejected",
    "history",
)
_TABLES = (".csv", ".tsv")
# Whatever the notation: no text that is meant as one begins so.
_BEGINNING = re.compile(r"""\s*\[\s*\{\s*['"](?:role|from|content|value)['"]\s*:""")


def with_parsed_messages(row: Row, data: dict[str, Any]) -> dict[str, Any]:
    """The columns of a row with such strings as the lists that they are the JSON of.

    Raises:
      DataError: a string outside of a CSV file and the column of messages, or one in another notation.
    """
    responses = data.get("responses")
    for text in responses if isinstance(responses, list) else ():
        if isinstance(text, str) and _BEGINNING.match(text):
            raise _written(row, "responses")
    written = [
        name for name in COLUMNS if name in data and isinstance(data[name], str) and _BEGINNING.match(data[name])
    ]
    return data | {name: _parsed(row, name, data[name]) for name in written}


def _parsed(row: Row, name: str, value: str) -> list[Any]:
    in_table = format_of(row.file) in _TABLES
    try:
        parsed = parse(value) if in_table or name == "messages" else None
    except ValueError:
        parsed = None
    if not isinstance(parsed, list):
        raise _written(row, name)
    return parsed


def _written(row: Row, name: str) -> DataError:
    return row.error(
        "the messages are written into a string.",
        field=name,
        remedy="Give the list itself (JSONL or Parquet); a CSV file may hold it as JSON, not in Python's notation.",
    )
