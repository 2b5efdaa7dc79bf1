"""What an assistant thinks aloud before it answers: kept, or taken out of a row."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from jaxpo.data.chat.calls import THINK_END, THINK_START, reasoning_of
from jaxpo.data.chat.chat import Span, text_of
from jaxpo.data.rows.rows import Record, Side
from jaxpo.data.rows.texts import Text
from jaxpo.data.rows.turns import IM_END, IM_START, is_rendered
from jaxpo.errors import DataError

Reasoning = Literal["keep", "strip"]
KEPT, STRIPPED, LOST = "reasoning_kept", "reasoning_stripped", "reasoning_left_out_by_template"
"""What is noted of a row."""
_THOUGHT = re.compile(rf"\s*{THINK_START}(.*?){THINK_END}\s*", re.DOTALL)
# In a text that is rendered, behind the header of a turn and within it.
_IN_TURN = re.compile(
    rf"({re.escape(IM_START)}assistant\n)\s*{THINK_START}(?:(?!{re.escape(IM_END)}).)*?{THINK_END}\s*", re.DOTALL
)
# Begun at the end of a prompt, as some templates ask for an answer, and ended in the answer.
_BEGUN, _ENDED = re.compile(rf"{THINK_START}\s*\Z"), re.compile(rf".*?{THINK_END}\s*", re.DOTALL)


def has_reasoning(record: Record, *, marks: bool = True) -> bool:
    """Whether an assistant thinks aloud in any of a row's texts.

    Args:
      marks: those of the chat template in strings are read as such.
    """
    texts = [text for side in record.sides for text in (side.prompt, side.completion)]
    found = any(_thought(message) for text in texts if isinstance(text, list) for message in text)
    return found or any(_bare_strings(record, side, marks) != (side.prompt, side.completion) for side in record.sides)


def without_reasoning(record: Record, *, marks: bool = True) -> Record:
    """The row without it.

    Raises:
      DataError: nothing else is left of an answer.
    """
    return replace(record, sides=tuple(_stripped(record, side, marks) for side in record.sides))


def said_once(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Messages whose content does not repeat the reasoning that they have beside it.

    Raises:
      DataError: the two differ.
    """
    return [_said_once(i, message) for i, message in enumerate(messages)]


def is_lost(messages: Sequence[Mapping[str, Any]], spans: Sequence[Span]) -> bool:
    """Whether a template left reasoning out of what messages render to, as many do in earlier turns."""
    thoughts = [thought for message in messages if (thought := _thought(message))]
    text = text_of(spans) if thoughts else ""
    return any(thought not in text for thought in thoughts)


def _said_once(index: int, message: Mapping[str, Any]) -> Mapping[str, Any]:
    inside, beside = _leading_thought(message), reasoning_of(message)
    if inside is None or not beside:
        return message
    if inside[1].strip() != beside.strip():
        raise DataError(
            f"message {index} has different thoughts beside its content and in it.", remedy="Keep one of them."
        )
    return {**message, "content": message["content"][inside.end() :]}


def _stripped(record: Record, side: Side, marks: bool) -> Side:
    prompt, completion = (
        [_without(message) for message in text] if isinstance(text, list) else text
        for text in _bare_strings(record, side, marks)
    )
    emptied = isinstance(completion, str) and side.completion and not completion
    messages = completion if isinstance(completion, list) else ()
    if emptied or any(m["role"] == "assistant" and not m["content"] and not m.get("tool_calls") for m in messages):
        raise record.row.error(
            "nothing is left of an answer without its reasoning (data.reasoning='strip').",
            field=side.role,
            remedy="Remove the row, or set data.reasoning='keep'.",
        )
    return replace(side, prompt=prompt, completion=completion or "")


def _bare_strings(record: Record, side: Side, marks: bool) -> tuple[Text | None, Text]:
    """Prompt and completion, where they are strings without what is thought aloud in them."""
    prompt, completion = side.prompt, side.completion
    if not isinstance(completion, str) or isinstance(prompt, list):
        return prompt, completion
    if marks and is_rendered(prompt or completion):
        prompt, completion = prompt and _IN_TURN.sub(r"\1", prompt), _IN_TURN.sub(r"\1", completion)
    if record.kind == "text":
        return prompt, completion
    if prompt and (begun := _BEGUN.search(prompt)) and (ended := _ENDED.match(completion)):
        return prompt[: begun.start()], completion[ended.end() :]
    thought = _THOUGHT.match(completion)
    return prompt, completion[thought.end() :] if thought else completion


def _thought(message: Mapping[str, Any]) -> str:
    inside = _leading_thought(message)
    return (reasoning_of(message) or (inside[1] if inside else "")).strip()


def _without(message: Mapping[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in message.items() if name != "reasoning_content"}
    thought = _leading_thought(message)
    return rest if thought is None else rest | {"content": message["content"][thought.end() :]}


def _leading_thought(message: Mapping[str, Any]) -> re.Match[str] | None:
    content = message["content"]
    return _THOUGHT.match(content) if message["role"] == "assistant" and isinstance(content, str) else None
