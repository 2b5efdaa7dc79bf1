"""How large what a template asks for would become, found out before it is made."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jinja2.exceptions import SecurityError

NUMBER, INDENT = 1_000_000, 100
PER_ITEM = 20
"""Characters that something in a list counts for, whatever it is."""
REFUSED_FILTERS = frozenset({"pprint", "random", "striptags", "urlize", "wordwrap", "xmlattr"})
REFUSED_METHODS = frozenset({"expandtabs", "maketrans", "translate", "encode", "decode", "to_bytes", "hex", "fromhex"})
"""No chat template has a use for them, and each makes much of little, takes the square of a text's length in time, or
gives something else each time."""
_WIDE = re.compile(r"\d{6,}")
_DIGITS = re.compile(r"\d+")
_SIZED = (str, list, tuple)


def materialised(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments whose size can be seen; what is still to be made is made, step by step."""
    return tuple(list(value) if isinstance(value, Iterator) else value for value in args)


def size_of_call(name: str, args: tuple[Any, ...]) -> int:
    """An upper bound on the characters that a filter or a method makes beyond those it is given.

    Raises:
      SecurityError: it asks for what no template needs.
    """
    if name in REFUSED_METHODS:
        raise SecurityError(f"it calls {name!r}")
    if name != "tojson" and any(isinstance(value, int) and abs(value) > NUMBER for value in args):
        raise SecurityError(f"it asks {name!r} for more than {NUMBER:,}")
    return _SIZES[name](args) if name in _SIZES else 0


def check_size(value: Any, largest: int) -> None:
    """SecurityError when a value, written out with everything inside it, would have more than `largest` characters.

    Lists may hold one another many times over: written, compared or copied such a value would be without end.
    """
    left, waiting = largest, [value]
    while waiting:
        item = waiting.pop()
        left -= len(item) if isinstance(item, str) else PER_ITEM
        if left < PER_ITEM * (len(item) if isinstance(item, Mapping | list | tuple) else 0):
            raise SecurityError("it makes a text without end, in lists of lists")
        if isinstance(item, Mapping):
            waiting += (*item.keys(), *item.values())
        elif isinstance(item, list | tuple):
            waiting += item


def size_of_operation(operator: str, left: Any, right: Any) -> int:
    """The same of `+`, `*`, `**` and `%`."""
    return _OPERATIONS[operator](left, right)


def _formatted(args: tuple[Any, ...]) -> int:
    text = next((value for value in args if isinstance(value, str)), "")
    specs = _specs(text)
    if _WIDE.search(text) or ("%" in text and "*" in text) or any("{" in spec for spec in specs):
        raise SecurityError("it formats a text to a huge width")
    numbers = text if "%" in text else " ".join(specs)  # each may be a width
    widths = sum(map(int, _DIGITS.findall(numbers)))
    return len(text) + widths + (text.count("{") + text.count("%")) * sum(_length(value) for value in args)


def _specs(text: str) -> list[str]:
    """What stands behind the colons of `{:...}`."""
    try:
        return [spec for _, _, spec, _ in string.Formatter().parse(text) if spec]
    except ValueError:
        return []  # it is no such text, or cannot be formatted


def _added_up(args: tuple[Any, ...]) -> int:
    if any(isinstance(value, list | tuple | Mapping) for value in args[2:]):
        raise SecurityError("it adds up something else than numbers")
    return 0


def _joined(args: tuple[Any, ...]) -> int:
    parts = [part for value in args if isinstance(value, list | tuple) for part in value]
    between = max((len(value) for value in args if isinstance(value, str)), default=0)
    return sum(len(str(part)) + between for part in parts)


def _replaced(args: tuple[Any, ...]) -> int:
    text, old, new = ([value for value in args if isinstance(value, str)] + ["", "", ""])[:3]
    return len(text) + (text.count(old) if old else len(text)) * len(new)


def _indented(args: tuple[Any, ...]) -> int:
    text = next((value for value in args if isinstance(value, str)), "")
    widths = [value if isinstance(value, int) else _length(value) for value in args if value is not text]
    if any(width > INDENT for width in widths):
        raise SecurityError(f"it indents by more than {INDENT}")
    return len(text) + text.count("\n") * INDENT


def _dumped(args: tuple[Any, ...]) -> int:
    if any((isinstance(value, int) and value > INDENT) or _length(value) > INDENT for value in args[1:]):
        raise SecurityError(f"it indents by more than {INDENT}")
    return 0


_SIZES: dict[str, Callable[[tuple[Any, ...]], int]] = {
    **dict.fromkeys(("format", "format_map", "strftime"), _formatted),
    "join": _joined,
    "replace": _replaced,
    "indent": _indented,
    "tojson": _dumped,
    "sum": _added_up,
}


def _add(left: Any, right: Any) -> int:
    return _length(left) + _length(right)


def _multiply(left: Any, right: Any) -> int:
    pairs = [(one, times) for one, times in ((left, right), (right, left)) if isinstance(times, int)]
    return max((_length(one) * max(times, 0) + _bits(one) + _bits(times) for one, times in pairs), default=0)


def _power(left: Any, right: Any) -> int:
    return _bits(left) * max(right, 0) if isinstance(right, int) else 0


def _modulo(left: Any, right: Any) -> int:
    return _formatted((left, right) if isinstance(right, str) else (left, *_parts(right))) if _is_text(left) else 0


_OPERATIONS: dict[str, Callable[[Any, Any], int]] = {"+": _add, "*": _multiply, "**": _power, "%": _modulo}


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _parts(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _length(value: Any) -> int:
    return len(value) if isinstance(value, _SIZED) else 0


def _bits(value: Any) -> int:
    return value.bit_length() if isinstance(value, int) else 0
