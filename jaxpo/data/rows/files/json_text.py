"""JSON to values: everything that is wrong with a text is an error with file, row and, where it is known, field."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from jaxpo.config.json_text import DEEPEST, too_deep
from jaxpo.data.rows.files.encoding import undecodable
from jaxpo.errors import DataError

_SURROGATE = re.compile("[\ud800-\udfff]")
_ONE_PER_LINE = "Each line must be one complete JSON object."


class _Twice(ValueError):
    """A key that stands twice in one object."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _Twice(Counter(name for name, _ in pairs).most_common(1)[0][0])
    return found


DECODER = json.JSONDecoder(object_pairs_hook=_object)


def parse(text: str, file: Path, number: int) -> Any:
    """The value of a line, checked.

    Raises:
      DataError: no JSON, a byte that is no UTF-8, half a surrogate pair, a key that stands twice, a number with
        thousands of digits, deep nesting.
    """
    try:
        value = DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise explained(error, text, file, number, f"line {number} is not valid JSON") from error
    return checked(value, text, file, number)


def explained(error: Exception, text: str, file: Path, number: int, what: str) -> DataError:
    """The DataError for what `json` raised."""
    foreign = undecodable(text)
    if foreign is not None:
        return DataError(str(foreign), file=file, row=number)
    if isinstance(error, RecursionError):
        return _nested(file, number)
    if isinstance(error, _Twice):
        remedy = "Keep one of the two; which one is meant cannot be known."
        return DataError("the key stands twice in one object.", file=file, row=number, field=str(error), remedy=remedy)
    if isinstance(error, json.JSONDecodeError):
        column = f" at column {min(error.pos, len(text.rstrip())) + 1}" if what.startswith("line") else ""
        return DataError(
            f"{what}: {error.msg}{column}.", file=file, row=number, remedy=_ONE_PER_LINE if column else None
        )
    return DataError(f"{what}: {error}.", file=file, row=number, remedy="No number may have thousands of digits.")


def checked(value: Any, text: str, file: Path, number: int) -> Any:
    """The value, when it holds whole characters and is nested no deeper than anything that uses it can follow."""
    foreign = undecodable(text)
    if foreign is not None or ("\\u" in text and _place(value) is not None):
        field, place, found = _place(value) or ("", "", "")
        error = str(foreign) if foreign else f"half a surrogate pair, {found!a}, is no character."
        remedy = (
            None if foreign else "It is what is left of a character that was cut; remove it or replace it by U+FFFD."
        )
        where = "" if place == field else f"{place}: "
        raise DataError(f"{where}{error}", file=file, row=number, field=field or None, remedy=remedy)
    if max(text.count("["), text.count("{")) > DEEPEST and too_deep(value):
        raise _nested(file, number)
    return value


def _nested(file: Path, number: int) -> DataError:
    message = f"nested more than {DEEPEST} levels deep."
    return DataError(message, file=file, row=number, remedy="Flatten the row; no known column is nested like that.")


def _place(value: Any) -> tuple[str, str, str] | None:
    """(column, path inside it, characters) of the first string with a lone surrogate."""
    waiting: list[tuple[str, str, Any]] = [("", "", value)]
    while waiting:
        field, place, item = waiting.pop()
        if isinstance(item, str):
            if found := _SURROGATE.search(item):
                return field, place, found[0]
        elif isinstance(item, dict):
            inside = [(field or name, f"{place}.{name}" if place else name, part) for name, part in item.items()]
            waiting += reversed(inside)
            waiting += [(field or ascii(name), f"the key {name!a}", name) for name in item if not name.isascii()]
        elif isinstance(item, list):
            waiting += reversed([(field, f"{place}[{i}]", part) for i, part in enumerate(item)])
    return None
