"""A chat's messages and tools, read as training reads those of a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxpo.data.chat.chat import Message
from jaxpo.data.rows import messages as rows
from jaxpo.data.rows.clips import PART as CLIP
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.pictures import COLUMN, PARTS, with_pictures
from jaxpo.data.rows.tools import tools_of
from jaxpo.errors import DataError, EmptyRow
from jaxpo.serve.errors import wrong
from jaxpo.serve.fields import OBJECT, SOME_TEXT, TEXT, Fields, either, listed, one_of, shown

READ = ("role", "content", "tool_calls", "reasoning_content", "name", "tool_call_id")
"""Of a message. `name` and `tool_call_id` reach templates that read them; LFM2's does not."""


def read_messages(given: Sequence[Mapping[str, Any]]) -> tuple[Sequence[Message], tuple[Any, ...]]:
    """Messages as `jaxpo.data.rows.messages` has them, with a mark for each image; and the images, not opened.

    Raises:
      ApiError: 400; names the message and the field.
    """
    for i, message in enumerate(given):
        # The `openai` client sends a message back with fields that were null or empty in it.
        for name in (name for name, value in message.items() if value not in (None, [])):
            if name not in READ:
                raise wrong(
                    f"messages.{i}.{shown(name)}",
                    f"message {i} has the field {shown(name)!r}, which is not supported; known: {', '.join(READ)}.",
                    "unknown",
                )
        parts = message.get("content")
        for j, part in enumerate(parts if isinstance(parts, list) else ()):
            if isinstance(part, dict) and part.get("type") in (*PARTS, CLIP):
                _check_image(message, part, f"messages.{i}.content.{j}")
    try:
        row = _row({"messages": [dict(message) for message in given]})
        data = with_pictures(row, row.data)
        return rows.messages(row, "messages", data["messages"]), tuple(data.get(COLUMN, ()))
    except DataError as error:
        raise wrong("messages", _words(error)) from error


def _check_image(message: Mapping[str, Any], part: Mapping[str, Any], path: str) -> None:
    """ApiError for a part that is no image in OpenAI's form, or in an answer."""
    if message.get("role") == "assistant":
        raise wrong(path, f"`{path}` is an image in an answer; show it in a message of the user.")
    if part["type"] != "image_url":
        raise wrong(path, f"`{path}` has the type {shown(part['type'])!r}; an image's is 'image_url'.")
    given = Fields(part, path)
    given.take("type", TEXT, None)
    found = given.need("image_url", either(SOME_TEXT, OBJECT))
    given.done()
    if isinstance(found, dict):
        inner = Fields(found, f"{path}.image_url")
        inner.need("url", SOME_TEXT)
        inner.take("detail", one_of("auto", "high"), "auto")
        inner.done()


def read_tools(fields: Fields) -> tuple[Any, ...]:
    """The tools that the template lists: none when `tool_choice` says that none may be called."""
    given: list[Any] = fields.take("tools", listed(either(TEXT, OBJECT)), [])
    choice = fields.take("tool_choice", either(one_of("none", "auto", "required"), OBJECT), "auto")
    fields.take("parallel_tool_calls", one_of(True), True)
    if choice not in ("none", "auto"):
        raise wrong("tool_choice", '`tool_choice` is "auto" or "none"; no call can be forced.', "unsupported")
    for i, tool in enumerate(given):
        if isinstance(tool, dict) and tool.get("type", "function") != "function":
            raise wrong(f"tools.{i}.type", f"`tools.{i}.type` is {shown(tool['type'])!r}; it must be 'function'.")
    try:
        found = tools_of(_row({"tools": given}))
    except DataError as error:
        raise wrong("tools", _words(error)) from error
    return found if choice == "auto" else ()


def _row(data: dict[str, Any]) -> Row:
    return Row(Path("request"), 1, data)


def _words(error: DataError) -> str:
    """What is wrong, without the file that a request is not, nor what may be done about an empty row of one."""
    remedy = None if isinstance(error, EmptyRow) else error.remedy
    return f"{error.message} {remedy}" if remedy else error.message
