"""What an assistant thinks aloud before it answers: kept, or taken out of a row."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from jaxpo.data.chat.calls import THINK_END, THINK_START, reasoning_of
from jaxpo.data.chat.chat import Span, text_of
from jaxpo.data.rows.rows import Record, Side

Reasoning = Literal["keep", "strip"]
KEPT, STRIPPED, LOST = "reasoning_kept", "reasoning_stripped", "reasoning_left_out_by_template"
"""What is noted of a row."""
_THOUGHT = re.compile(rf"\s*{THINK_START}(.*?){THINK_END}\s*", re.DOTALL)


def has_reasoning(record: Record) -> bool:
    """Whether an assistant thinks aloud in any of a row's texts."""
    texts = [text for side in record.sides for text in (side.prompt, side.completion)]
    return any(_thought(message) for text in texts if isinstance(text, list) for message in text)


def without_reasoning(record: Record) -> Record:
    """The row without it.

    Raises:
      DataError: nothing else is left of an answer.
    """
    return replace(record, sides=tuple(_stripped(record, side) for side in record.sides))


def is_lost(messages: Sequence[Mapping[str, Any]], spans: Sequence[Span]) -> bool:
    """Whether a template left reasoning out of what messages render to, as many do in earlier turns."""
    thoughts = [thought for message in messages if (thought := _thought(message))]
    text = text_of(spans) if thoughts else ""
    return any(thought not in text for thought in thoughts)


def _stripped(record: Record, side: Side) -> Side:
    prompt, completion = (
        [_without(message) for message in text] if isinstance(text, list) else text
        for text in (side.prompt, side.completion)
    )
    for message in completion if isinstance(completion, list) else ():
        if message["role"] == "assistant" and not message["content"] and not message.get("tool_calls"):
            raise record.row.error(
                "nothing is left of an answer without its reasoning (data.reasoning='strip').",
                field=side.role,
                remedy="Remove the row, or set data.reasoning='keep'.",
            )
    return replace(side, prompt=prompt, completion=completion or "")


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
