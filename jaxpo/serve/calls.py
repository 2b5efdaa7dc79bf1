"""Calls that LFM2 writes, `[f(city="Oslo", n=1), g()]`, read back; the inverse of `jaxpo.data.chat.calls.call_list`."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

WORDS = {"true": True, "false": False, "null": None}
"""JSON's, which stand inside lists and objects."""
LONGEST = 100_000
_UNREADABLE = (SyntaxError, ValueError, TypeError, RecursionError, MemoryError)


@dataclass(frozen=True)
class Call:
    """One call.

    Attributes:
      arguments: JSON of an object.
    """

    name: str
    arguments: str


def read_calls(text: str) -> tuple[Call, ...] | None:
    """The calls of what stands between the marks of a tool call; None where it is no list of calls by name.

    Nothing is evaluated: names, strings, numbers, lists and objects are read off the syntax tree.
    """
    if len(text) > LONGEST:
        return None
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        nodes = tree.elts if isinstance(tree, ast.List) else [tree]
        return tuple(map(_call, nodes)) or None
    except _UNREADABLE:
        return None


def _call(node: ast.expr) -> Call:
    # Arguments by position would have to be guessed from the tool's description.
    if not isinstance(node, ast.Call) or node.args or any(word.arg is None for word in node.keywords):
        raise ValueError("no call by name")
    arguments = {str(word.arg): _value(word.value) for word in node.keywords}
    return Call(_name(node.func), json.dumps(arguments, ensure_ascii=False, allow_nan=False))


def _name(node: ast.expr) -> str:
    """`f`, or `a.b.f` as some tools are called."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value)}.{node.attr}"
    raise ValueError("no name")


def _value(node: ast.expr) -> Any:
    read = _READERS.get(type(node))
    if read is None:
        raise ValueError(f"{type(node).__name__} is no value")
    return read(node)


def _constant(node: Any) -> Any:
    value = node.value
    if isinstance(value, str):
        # JSON writes what lies beyond U+FFFF as two halves, which Python reads as two characters.
        return value.encode("utf-16", "surrogatepass").decode("utf-16")
    if value is not None and not isinstance(value, bool | int | float):
        raise ValueError(f"{type(value).__name__} is no JSON")
    return value


def _word(node: Any) -> Any:
    if node.id not in WORDS:
        raise ValueError(f"{node.id} is no value")
    return WORDS[node.id]


def _signed(node: Any) -> Any:
    value = _value(node.operand)
    if not isinstance(node.op, ast.USub) or type(value) not in (int, float):
        raise ValueError("no number")
    return -value


def _object(node: Any) -> dict[str, Any]:
    keys = [key.value for key in node.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)]
    if len(keys) < len(node.keys):
        raise ValueError("a key is no string")
    return dict(zip(keys, map(_value, node.values), strict=True))


_READERS: Mapping[type[ast.expr], Callable[[Any], Any]] = {
    ast.Constant: _constant,
    ast.Name: _word,
    ast.UnaryOp: _signed,
    ast.List: lambda node: list(map(_value, node.elts)),
    ast.Tuple: lambda node: list(map(_value, node.elts)),
    ast.Dict: _object,
}
