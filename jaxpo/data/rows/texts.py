"""The texts of a row, checked: strings, or lists of messages with role and content."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.messages import Message, messages

Text = str | list[Message]


def text_of_column(row: Row, name: str) -> Text:
    """A prompt; it may be empty."""
    if name not in row.data:
        raise row.error(f"column {name!r} is missing.", field=name, remedy="Add it to every row.")
    return text_or_messages(row, name, row.data[name], empty_ok=True)


def answer(row: Row, name: str) -> Text:
    """A text that is to be learnt; it may not be empty."""
    return text_or_messages(row, name, row.data[name], empty_ok=False)


def text_or_messages(row: Row, name: str, value: Any, *, empty_ok: bool) -> Text:
    """A value of either form, checked; a single message is a list of one."""
    if isinstance(value, Mapping) and ("role" in value or "from" in value):
        value = [value]
    if isinstance(value, list):
        return messages(row, name, value)
    return string(row, name, value, empty_ok=empty_ok)


def string(row: Row, name: str, value: Any, *, empty_ok: bool = True) -> str:
    """A string; DataError otherwise."""
    if not isinstance(value, str):
        raise row.error(
            f"expected a string, found {type(value).__name__}.", field=name, remedy="Use text or a list of messages."
        )
    if not empty_ok and not value:
        raise row.empty("the text is empty.", field=name)
    return value
