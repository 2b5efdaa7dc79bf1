"""The content of a message: a string, or the parts that make one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxpo.data.rows.formats import Row
from jaxpo.errors import DataError

TEXT_PARTS = ("text", "input_text", "output_text")
THOUGHTS = ("thinking", "reasoning")
READS_TEXT = "this model reads text"


@dataclass(frozen=True)
class Place:
    """A message of a row, for errors about it."""

    row: Row
    column: str
    index: int

    def error(self, what: str, remedy: str) -> DataError:
        """`message 3 has ...`, with file, row and field."""
        return self.row.error(f"message {self.index} {what}", field=self.column, remedy=remedy)


def content_of(place: Place, role: str, value: Any) -> tuple[str | None, str]:
    """A message's text, None where there is none, and the thoughts among its parts.

    The texts of parts are joined by nothing. What a tool returned may be any JSON, and is written as such.

    Raises:
      DataError: parts that are no text; names them.
    """
    if value is None or isinstance(value, str):
        return value, ""
    parts = [value] if isinstance(value, Mapping) else value
    if role == "tool" and not _typed(parts):
        return json.dumps(value, ensure_ascii=False), ""
    if not isinstance(parts, list):
        raise place.error(f"({role}) has content of type {type(value).__name__}.", "Write the content as a string.")
    return "".join(_text(place, part) for part in parts), "".join(_thought(place, part) for part in parts)


def _typed(parts: Any) -> bool:
    return isinstance(parts, list) and bool(parts) and all(isinstance(p, Mapping) and "type" in p for p in parts)


def _text(place: Place, part: Any) -> str:
    """A part's text; "" for a thought."""
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind in THOUGHTS:
        return ""
    text = part.get("text") if isinstance(part, Mapping) else None
    if kind in (None, *TEXT_PARTS) and isinstance(text, str):
        return text
    what = f"of type {kind!r}" if isinstance(kind, str) else f"{part!r}"
    raise place.error(
        f"has a part {what} in its content: {READS_TEXT}.",
        'Give content as a string or as parts {"type": "text", "text": "..."}; leave out rows with images or sound.',
    )


def _thought(place: Place, part: Any) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind not in THOUGHTS:
        return ""
    value = part.get(kind, part.get("text"))
    inner = value if isinstance(value, list) else [value]
    return "".join(_text(place, p) for p in inner)
