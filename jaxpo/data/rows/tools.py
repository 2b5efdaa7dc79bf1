"""Tools and calls of them, as the stacks write them, in one form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from jaxpo.config.json_text import parse
from jaxpo.data.rows.arrow_nulls import is_aligned, without_nulls
from jaxpo.data.rows.contents import Place
from jaxpo.data.rows.formats import Row

FORM = 'A call is {"name": "f", "arguments": {...}}, or OpenAI\'s {"type": "function", "function": {...}}.'

_KNOWN = ("name", "arguments", "id", "type", "index", "function")


def calls_of(place: Place, message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """`tool_calls` (or the older `function_call`) as `{"name", "arguments"}`; arguments in a JSON string are parsed."""
    given, older = message.get("tool_calls") or [], message.get("function_call")
    if given and older:
        raise place.error("has both `tool_calls` and `function_call`.", "Keep one of them.")
    given = [older] if older else given
    if not isinstance(given, list):
        raise place.error(f"has `tool_calls` of type {type(given).__name__}.", f"Give a list. {FORM}")
    return [_call(place, call) for call in given]


def calls_in_text(place: Place, content: str | None) -> tuple[str | None, list[dict[str, Any]]]:
    """ShareGPT's turn of a call: the calls that its text is the JSON of, else the text as it stands."""
    parsed = _parsed(content)
    calls = [parsed] if isinstance(parsed, dict) else parsed
    if not isinstance(calls, list) or not calls or not all(isinstance(c, dict) and "name" in c for c in calls):
        return content, []
    return "", [_call(place, call) for call in calls]


def tools_of(row: Row) -> tuple[Any, ...]:
    """The row's tools; a JSON string of them is parsed."""
    value = row.data.get("tools", ())
    value = _parsed(value) if isinstance(value, str) and value.strip() else value or ()
    if not isinstance(value, list | tuple):
        raise row.error("`tools` must be a list.", field="tools", remedy="One JSON schema or string per tool.")
    if value and not _is_json(value):
        raise row.error("a number is not finite.", field="tools", remedy="JSON has no form for it: correct the row.")
    return tuple(without_nulls(value) if value and is_aligned(row.file) else value)


def _is_json(value: Any) -> bool:
    """Whether there is no NaN or infinity in it."""
    try:
        json.dumps(value, allow_nan=False, default=str)
    except ValueError:
        return False
    return True


def _call(place: Place, call: Any) -> dict[str, Any]:
    inner = call.get("function") or call if isinstance(call, Mapping) else {}
    name = inner.get("name") if isinstance(inner, Mapping) else None
    if not isinstance(name, str) or not name:
        raise place.error(f"has a call without a name: {call!r}.", FORM)
    arguments = inner.get("arguments")
    others = [key for key, value in inner.items() if key not in _KNOWN and value not in (None, "", {}, [])]
    if arguments is None and others:
        raise place.error(
            f"calls {name} with {', '.join(map(repr, others))} and without `arguments`.",
            f"Rename what holds the arguments. {FORM}",
        )
    if isinstance(arguments, str):
        parsed = _parsed(arguments) if arguments.strip() else {}
        arguments = parsed if isinstance(parsed, dict) else arguments
    elif is_aligned(place.row.file):
        arguments = without_nulls(arguments)
    if arguments is not None and not isinstance(arguments, Mapping | str):
        raise place.error(f"calls {name} with arguments of type {type(arguments).__name__}.", FORM)
    if not _is_json(arguments):
        raise place.error(
            f"calls {name} with a number that is not finite.", "JSON has no form for it: correct the row."
        )
    return {"name": name, "arguments": {} if arguments is None else arguments}


def _parsed(text: Any) -> Any:
    """The value of a JSON string; None where it is none."""
    try:
        return parse(text)
    except (TypeError, ValueError):
        return None
