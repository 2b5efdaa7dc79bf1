"""The texts of a row, checked: strings, or lists of messages with role and content."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxpo.data.rows.formats import Row

Text = str | list[dict[str, Any]]

_SHAREGPT_ROLES = {
    "human": "user", "gpt": "assistant", "function_call": "assistant", "observation": "tool", "bot": "assistant"
}  # fmt: skip
_MESSAGE_FORM = 'A message is {"role": "user", "content": "..."}.'


def text_of_column(row: Row, name: str) -> Text:
    """A prompt; it may be empty."""
    if name not in row.data:
        raise row.error(f"column {name!r} is missing.", field=name, remedy="Add it to every row.")
    return text_or_messages(row, name, row.data[name], empty_ok=True)


def answer(row: Row, name: str) -> Text:
    """A text that is to be learnt; it may not be empty."""
    return text_or_messages(row, name, row.data[name], empty_ok=False)


def text_or_messages(row: Row, name: str, value: Any, *, empty_ok: bool) -> Text:
    """A value of either form, checked."""
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


def messages(row: Row, name: str, value: Any) -> list[dict[str, Any]]:
    """Messages as role and content, ShareGPT's from / value translated; DataError names the message."""
    if not isinstance(value, list):
        raise row.error("expected a list of at least one message.", field=name, remedy=_MESSAGE_FORM)
    if not value:
        raise row.empty("the conversation is empty.", field=name)
    return [_message(row, name, i, message) for i, message in enumerate(value)]


def _message(row: Row, name: str, index: int, message: Any) -> dict[str, Any]:
    if isinstance(message, Mapping) and "from" in message and "value" in message:
        role = _SHAREGPT_ROLES.get(message["from"], message["from"])
        message = {"role": role, "content": message["value"]}
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise row.error(f"message {index} has no role.", field=name, remedy=_MESSAGE_FORM)
    if message.get("tool_calls"):
        raise row.error(
            f"message {index} has `tool_calls`, which LFM2's template does not render.",
            field=name,
            remedy="Write the call into `content`: <|tool_call_start|>[name(arg=1)]<|tool_call_end|>.",
        )
    content = message.get("content")
    if content is None or (message["role"] == "assistant" and content == ""):
        raise row.error(f"message {index} ({message['role']}) has no content.", field=name, remedy=_MESSAGE_FORM)
    return {"role": message["role"], "content": content}
