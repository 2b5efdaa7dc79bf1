"""What a preference data set is built from: prompts, with the answers that their rows give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.rows import canonical, detect, read_record
from jaxpo.data.rows.sides import Side
from jaxpo.data.rows.texts import Text
from jaxpo.data.rows.tools import tools_of

OPEN, CONSTRAINED = "open", "constrained"
"""Questions with many good answers, and those with one that is short: the types that R^3 tells apart."""
KINDS = ("prompt_completion", "rated", "unpaired", "messages", "preference", "prompt")


@dataclass(frozen=True)
class Question:
    """One prompt.

    Attributes:
      number: of its row among all rows, from 0; the random generator's name for it.
      given: column -> answer: `completion` of instruction data, `chosen` and `rejected` of preference data.
    """

    row: Row
    number: int
    prompt: Text
    given: dict[str, str] = field(default_factory=dict)

    def as_written(self, answer: str) -> Text:
        """An answer in the form of the prompt: a string, or an assistant's turn."""
        return answer if isinstance(self.prompt, str) else [{"role": "assistant", "content": answer}]


def read_questions(rows: Sequence[Row]) -> list[Question]:
    """The rows' prompts and answers; of a conversation the last assistant turn is the answer.

    Raises:
      DataError: a row of another type, an answer of several turns, `tools`; names file, row, field and remedy.
    """
    return [read_question(row, number) for number, row in enumerate(rows)]


def read_question(row: Row, number: int = 0) -> Question:
    """One row's prompt and answers; DataError as of `read_questions`."""
    kind = detect(row)
    if kind not in KINDS:
        raise row.error(
            f"rows of type {kind!r} give no prompt with one or two answers.",
            remedy="Give prompt and completion; prompt, chosen and rejected; messages; or prompt alone.",
        )
    if tools_of(row):
        raise row.error("answers to prompts with tools are not sampled.", field="tools", remedy="Remove the row.")
    sides = read_record(row, kind).sides
    if kind == "messages":
        return Question(canonical(row), number, *_split(row, sides[0]))
    assert sides[0].prompt is not None
    given = {side.role: _answer(row, side) for side in sides if side.role != "prompt" and not side.whole}
    return Question(canonical(row), number, sides[0].prompt, given)


def _split(row: Row, side: Side) -> tuple[Text, dict[str, str]]:
    messages: Any = side.completion
    if len(messages) < 2 or messages[-1]["role"] != "assistant":
        raise row.error(
            "the conversation does not end with an assistant's turn after another turn.",
            field="messages",
            remedy="Cut it after an assistant's turn.",
        )
    return messages[:-1], {"completion": _answer(row, Side("completion", None, messages[-1:]))}


def _answer(row: Row, side: Side) -> str:
    if isinstance(side.completion, str):
        return side.completion
    if len(side.completion) != 1:
        raise row.error(
            f"the answer has {len(side.completion)} turns; samples are one turn of text.",
            field=side.role,
            remedy="Move all turns but the last to `prompt`.",
        )
    if extras := {"tool_calls", "reasoning_content"} & set(side.completion[0]):
        raise row.error(
            f"the answer has {' and '.join(sorted(extras))}; samples are one turn of text.",
            field=side.role,
            remedy="Leave out such rows.",
        )
    return side.completion[0]["content"]
