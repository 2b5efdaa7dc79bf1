"""Tool calls and reasoning of an assistant's message as LFM2 writes them: `[f(city="Oslo")]`, `<think>..</think>`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jaxpo.config.json_text import parse
from jaxpo.errors import DataError

CALL_START, CALL_END = "<|tool_call_start|>", "<|tool_call_end|>"
THINK_START, THINK_END = "<think>", "</think>"


def call_list(calls: Sequence[Any]) -> str:
    """`[f(a="x"), g(n=1)]`: what stands between the marks of a tool call.

    Strings, lists and objects are JSON, numbers plain, and true, false and null Python's words.

    Raises:
      DataError: a call without a name.
    """
    return f"[{', '.join(map(_call, calls))}]"


def name_and_arguments(call: Any) -> tuple[str, Any]:
    """Of a call in either of its forms: `{"name", "arguments"}`, or OpenAI's with both inside `function`.

    Arguments that are JSON in a string are read; a string that is none stays as it is.
    """
    inner = call.get("function") or call if isinstance(call, Mapping) else {}
    arguments = inner.get("arguments") or {} if isinstance(inner, Mapping) else None
    if isinstance(arguments, str):
        arguments = _read(arguments)
    if not isinstance(arguments, Mapping | str) or not isinstance(inner.get("name"), str):
        raise DataError(
            f"{call!r} is not a tool call.",
            field="tool_calls",
            remedy='A call is {"name": "f", "arguments": {"x": 1}}.',
        )
    return inner["name"], arguments


def reasoning_of(message: Mapping[str, Any]) -> str:
    """What an assistant's message thinks aloud before it answers, without its marks; "" when it does not."""
    return message.get("reasoning_content") or ""


def in_content(message: Mapping[str, Any], *, reasoning: bool, calls: bool) -> Mapping[str, Any]:
    """The message with its reasoning or calls written into the content, for templates that do not look for them."""
    front = ""
    rest = dict(message)
    if reasoning and (thought := reasoning_of(message)):
        front += f"{THINK_START}{thought}{THINK_END}"
        del rest["reasoning_content"]
    if calls and message.get("tool_calls"):
        front += f"{CALL_START}{call_list(message['tool_calls'])}{CALL_END}"
        del rest["tool_calls"]
    return rest | {"content": front + rest["content"]} if front else message


def _call(call: Any) -> str:
    name, arguments = name_and_arguments(call)
    if isinstance(arguments, str):
        return f"{name}({arguments})"
    return f"{name}({', '.join(f'{key}={_value(value)}' for key, value in arguments.items())})"


def _read(arguments: str) -> Any:
    try:
        found = parse(arguments)
    except ValueError:
        return arguments
    return found if isinstance(found, Mapping) else arguments


def _value(value: Any) -> str:
    if value is None:
        return "None"
    # Words of Python, in which the calls are written.
    return str(value) if isinstance(value, bool) else json.dumps(value, ensure_ascii=False)
