"""The strings of a column, wherever in its messages they stand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

_KEYS = ("content", "value", "text")


def strings(value: Any) -> Iterator[str]:
    """A string, or what messages say, in its order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key in _KEYS:
            if key in value:
                yield from strings(value[key])
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)


def counted(value: Any, mark: str) -> int:
    """Places where a mark is written."""
    return sum(text.count(mark) for text in strings(value))


def mapped(value: Any, change: Callable[[str], str]) -> Any:
    """The same with every string changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {**value, **{key: mapped(value[key], change) for key in _KEYS if key in value}}
    return [mapped(item, change) for item in value] if isinstance(value, list) else value
