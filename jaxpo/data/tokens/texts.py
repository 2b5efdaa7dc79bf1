"""All the text in data files, whatever their columns: what a tokenizer is trained on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from jaxpo.data.rows.formats import read_rows
from jaxpo.data.rows.messages import REASONING
from jaxpo.data.rows.pictures import without_marks
from jaxpo.data.rows.rows import canonical

TEXT_COLUMNS = (
    *("text", "messages", "prompt", "completion", "chosen", "rejected", "gold", "responses"),
    *("prompt_chosen", "prompt_rejected", "rationale", "steps", "items", "inter_prompt", "completions", "samples"),
    "calibration",
)


def texts_of(files: Iterable[Path]) -> Iterator[str]:
    """Every string in the text columns of every row; of messages, the contents."""
    for row in map(canonical, read_rows(list(files))):
        for name in TEXT_COLUMNS:
            if name in row.data:
                yield from _strings(row.data[name])


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield without_marks(value)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(_said(item) if isinstance(item, dict) else item)


def _said(message: dict[str, Any]) -> Any:
    """What a message, or a part of its content, says; thoughts too."""
    return [value for name in ("content", "value", "text", *REASONING) if (value := message.get(name)) is not None]
