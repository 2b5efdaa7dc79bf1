"""JSON from elsewhere to values, so that whatever is wrong with it is a `ValueError`."""

from __future__ import annotations

import json
import re
from typing import Any

DEEPEST = 100
"""Levels of nesting: no file needs more, and what walks the values could not follow."""
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse(text: str) -> Any:
    """The value of a JSON text; ValueError for anything else, halves of characters and deep nesting included."""
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise nested() from error
    if text.count("[") + text.count("{") > DEEPEST and too_deep(value):
        raise nested()
    if _SURROGATE.search(text):
        json.dumps(value, ensure_ascii=False).encode()  # a UnicodeEncodeError for half of a pair
    return value


def nested() -> ValueError:
    """The error for what is nested too deeply."""
    return ValueError(f"nested more than {DEEPEST} levels deep")


def too_deep(value: Any) -> bool:
    """Whether lists and objects stand in one another more than `DEEPEST` levels deep."""
    level = [value]
    for _ in range(DEEPEST):
        level = [part for item in level if isinstance(item, dict | list) for part in _parts(item)]
        if not level:
            return False
    return True


def _parts(item: dict[str, Any] | list[Any]) -> Any:
    return item.values() if isinstance(item, dict) else item
