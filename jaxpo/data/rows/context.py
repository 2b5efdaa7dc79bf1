"""What stands before a row's own turns in columns of its own: `system`, `history`, `tools`.

A row that has one of them is a conversation: a string prompt becomes the user's turn, a string answer the assistant's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.messages import ALIASES, Message, messages
from jaxpo.data.rows.tools import tools_of
from jaxpo.data.rows.turns import Malformed, is_rendered, turns_of

COLUMNS = ("system", "history")
# Where a conversation starts, in the order they are looked for: the row's only beginning, or one for each side.
_BEGINNINGS = (("messages",), ("prompt_chosen", "prompt_rejected"), ("prompt",))
_PROMPTS = ("prompt_chosen", "prompt_rejected", "prompt")
_SIDES = ("chosen", "rejected")


def gives_context(row: Row) -> bool:
    """Whether a row has one of the columns."""
    return any(name in row.data for name in COLUMNS) or bool(tools_of(row))


def asks(data: Mapping[str, Any]) -> bool:
    """Whether a row's messages are the question that `chosen` and `rejected` answer, in place of a prompt."""
    turns = data.get("messages")
    if "prompt" in data or not all(name in data for name in _SIDES) or not isinstance(turns, list) or not turns:
        return False
    last = turns[-1] if isinstance(turns[-1], Mapping) else {}
    return ALIASES.get(written := str(last.get("role", last.get("from"))).lower(), written) != "assistant"


def makes_turns(row: Row) -> bool:
    """Whether a string of the row becomes a turn because of them."""
    strings = (name for name in (*_PROMPTS, "instruction") if isinstance(row.data.get(name), str))
    return any(not is_rendered(row.data[name]) for name in strings) and gives_context(row)


def with_context(row: Row) -> Row:
    """The row with the columns as turns; unchanged where it has no conversation that they could stand before.

    Raises:
      DataError: a system turn that differs from the column, a history of another form, a prompt already rendered.
    """
    columns = _beginnings(row)
    if not columns:
        return row
    before = [*_system(row), *_history(row)]
    data = {name: value for name, value in row.data.items() if name not in COLUMNS}
    for name in columns:
        data[name] = _begun(row, name, before, row.data[name])
    return Row(row.file, row.number, data)


def _beginnings(row: Row) -> tuple[str, ...]:
    """The columns whose texts the turns stand before."""
    whole = all(isinstance(row.data.get(name), list) for name in _SIDES)
    if whole and not isinstance(row.data.get("prompt"), list):
        return _SIDES
    found = next((names for names in _BEGINNINGS if all(name in row.data for name in names)), ())
    if not found and all(name in row.data for name in _SIDES):
        column = next(name for name in (*COLUMNS, "tools") if row.data.get(name))
        raise row.error(
            f"`{column}` has no prompt to stand before: chosen and rejected are strings.",
            field=column,
            remedy="Add a prompt column, or give chosen and rejected as messages.",
        )
    return found


def _begun(row: Row, name: str, before: Sequence[Message], value: Any) -> Any:
    if isinstance(value, str) and name != "messages":
        return _begun_string(row, name, before, value)
    if not before:
        return value
    own = messages(row, name, value)
    if own[0]["role"] != "system":
        return [*before, *own]
    if before[0]["role"] == "system" and before[0]["content"] != own[0]["content"]:
        raise row.error(
            f"`system` differs from the system turn that {name} starts with.",
            field="system",
            remedy="Keep one of them.",
        )
    return [own[0], *(turn for turn in before if turn["role"] != "system"), *own[1:]]


def _begun_string(row: Row, name: str, before: Sequence[Message], value: str) -> Any:
    if not is_rendered(value):
        return [*before, {"role": "user", "content": value}]
    if missing := [turn["role"] for turn in before if not _holds(value, turn)]:
        raise row.error(
            f"{name} is already rendered with the chat template, without the {missing[0]} turn that the row's other "
            "columns hold.",
            field=name,
            remedy="Render it with that turn, or give the prompt as it was before.",
        )
    return value


def _holds(text: str, message: Message) -> bool:
    """Whether a rendered text has the message as a turn; a list of tools may follow a system turn's content."""
    try:
        turns = turns_of(text)
    except Malformed:
        return True  # said where the text is rendered, with its own remedy
    bodies = (text[turn.body : turn.end] for turn in turns if turn.role == message["role"])
    return any(body.strip().startswith(message["content"].strip()) for body in bodies)


def _system(row: Row) -> list[Message]:
    value = row.data.get("system", "")
    if not isinstance(value, str):
        raise row.error(f"expected a string, found {type(value).__name__}.", field="system", remedy="Use text.")
    return [{"role": "system", "content": value}] if value.strip() else []


def _history(row: Row) -> list[Message]:
    """Earlier turns: pairs of question and answer, or messages."""
    value = row.data.get("history") or []
    if not isinstance(value, list):
        raise _no_history(row, value)
    if all(isinstance(turn, dict) for turn in value):
        return messages(row, "history", value) if value else []
    for pair in value:
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise _no_history(row, pair)
    return [
        {"role": role, "content": text}
        for pair in value
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]


def _no_history(row: Row, value: Any) -> Exception:
    remedy = "Give earlier turns as [[question, answer], ...] or as messages."
    return row.error(f"{value!r} is no earlier turn.", field="history", remedy=remedy)
