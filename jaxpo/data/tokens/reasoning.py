"""What an assistant thinks aloud before it answers: kept, or taken out of a row."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from jaxpo.data.rows.rows import Record, Side
from jaxpo.data.tokens.calls import THINK_END, THINK_START, reasoning_of

Reasoning = Literal["keep", "strip"]
KEPT, STRIPPED = "reasoning_kept", "reasoning_stripped"
"""What is noted of a row."""
_THOUGHT = re.compile(rf"\s*{THINK_START}.*?{THINK_END}\s*", re.DOTALL)


def has_reasoning(record: Record) -> bool:
    """Whether an assistant thinks aloud in any of a row's texts."""
    texts = [text for side in record.sides for text in (side.prompt, side.completion)]
    return any(_thinks(message) for text in texts if isinstance(text, list) for message in text)


def without_reasoning(record: Record) -> Record:
    """The row without it.

    Raises:
      DataError: nothing else is left of an answer.
    """
    return replace(record, sides=tuple(_stripped(record, side) for side in record.sides))


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


def _thinks(message: Mapping[str, Any]) -> bool:
    return bool(reasoning_of(message)) or _leading_thought(message) is not None


def _without(message: Mapping[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in message.items() if name != "reasoning_content"}
    thought = _leading_thought(message)
    return rest if thought is None else rest | {"content": message["content"][thought.end() :]}


def _leading_thought(message: Mapping[str, Any]) -> re.Match[str] | None:
    content = message["content"]
    return _THOUGHT.match(content) if message["role"] == "assistant" and isinstance(content, str) else None
