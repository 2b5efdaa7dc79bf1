"""What some methods read of a pair beyond its two responses: further segments, samples, and marked phrases."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.marks import SOURCES, span_marks
from jaxpo.data.rows.sides import Side, side_of
from jaxpo.data.rows.texts import Text, answer, text_of_column, text_or_messages

MOST_SAMPLES = 8
# Role -> the columns it comes from.
FURTHER: dict[str, tuple[str, ...]] = {
    "gold": ("gold",),
    "calibration": ("calibration",),
    "rationale": ("rationale", "rationale_prompt"),
    "inter_chosen": ("inter_prompt", "inter_sign"),
    "inter_rejected": ("inter_prompt", "inter_sign"),
    **{f"intra_{of}_{sign}": ("intra",) for of in ("chosen", "rejected") for sign in ("plus", "minus")},
    **{f"sample_{i}": ("samples",) for i in range(1, MOST_SAMPLES + 1)},
}
# Columns of numbers that a row has when, and only when, it has the role.
COLUMN_OF = {"inter_chosen": "inter_sign", "inter_rejected": "inter_sign"}
_INTRA_FORM = '{"chosen": [prompt_plus, prompt_minus], "rejected": [prompt_plus, prompt_minus]}, one of the two or both'


def lacks(row: Row, role: str) -> bool:
    """True when a row says nothing about a further role."""
    if role.startswith("intra_"):
        return role.split("_")[1] not in _intra(row)
    if role.startswith("sample_"):
        return _number(role) > len(_samples(row))
    return not any(name in row.data for name in FURTHER[role])


def further_side(row: Row, pair: tuple[Side, ...], role: str) -> Side:
    """The segment of a further role.

    Args:
      pair: the chosen and the rejected side.

    Raises:
      DataError: a missing or unusable column; names it.
    """
    for name in FURTHER[role]:
        if name not in row.data:
            raise row.error(
                f"column {name!r} is missing for the role {role!r}.",
                field=name,
                remedy=f"Give every row that has one of them all of: {', '.join(FURTHER[role])}.",
            )
    if role == "rationale":
        return side_of(row, role, text_of_column(row, "rationale_prompt"), answer(row, "rationale"), "rationale")
    if role in ("gold", "calibration"):
        return side_of(row, role, pair[0].prompt, answer(row, role), role)
    if role.startswith("sample_"):
        text = text_or_messages(row, "samples", _samples(row)[_number(role) - 1], empty_ok=False)
        return side_of(row, role, pair[0].prompt, text, "samples")
    kind, of = role.split("_")[:2]
    completion = pair[0 if of == "chosen" else 1].completion
    if kind == "inter":
        return side_of(row, role, text_of_column(row, "inter_prompt"), completion, of)
    return side_of(row, role, _intra_prompt(row, of, role.endswith("_plus")), completion, of)


def _number(role: str) -> int:
    return int(role.removeprefix("sample_"))


def _samples(row: Row) -> list[Any]:
    value = row.data.get("samples", [])
    if not isinstance(value, list):
        raise row.error("expected a list of answers.", field="samples", remedy="Give answers to the row's prompt.")
    return value


def _intra(row: Row) -> dict[str, Any]:
    value = row.data.get("intra", {})
    if not isinstance(value, dict) or set(value) - {"chosen", "rejected"}:
        raise row.error("expected an object.", field="intra", remedy=f"Give {_INTRA_FORM}.")
    return {of: prompts for of, prompts in value.items() if prompts is not None}


def _intra_prompt(row: Row, of: str, plus: bool) -> Text:
    prompts = _intra(row).get(of)
    if not isinstance(prompts, list) or len(prompts) != 2:
        raise row.error(f"expected two prompts for {of!r}.", field="intra", remedy=f"Give {_INTRA_FORM}.")
    if prompts[0] == prompts[1]:
        raise row.error(
            f"both prompts for {of!r} are the same: they say nothing.", field="intra", remedy="Remove that entry."
        )
    return text_or_messages(row, "intra", prompts[0 if plus else 1], empty_ok=True)


def with_spans(row: Row, sides: tuple[Side, ...], name: str) -> tuple[Side, ...]:
    """Mark the phrases of both responses of a pair that the columns of `name` list.

    Characters are counted in the column `chosen` or `rejected` when it is a string, else in the answer's only message.
    """
    marked = []
    for side, column in zip(sides[:2], SOURCES[name], strict=True):
        if column not in row.data:
            raise row.error(f"column {column!r} is missing.", field=column, remedy="Both responses need their spans.")
        text, given = marked_text(row, side, column), row.data[side.role]
        shift = len(given) - len(text) if isinstance(given, str) else 0
        marks = span_marks(row, column, name, length=len(text), shift=shift)
        marked.append(replace(side, marks=(*side.marks, *marks)))
    return (*marked, *sides[2:])


def marked_text(row: Row, side: Side, column: str) -> str:
    """The text that marks count the characters of."""
    if isinstance(side.completion, str):
        return side.completion
    if len(side.completion) != 1:
        raise row.error(
            f"{side.role} has {len(side.completion)} messages; spans can be marked in a single text only.",
            field=column,
            remedy="Move the earlier turns into `prompt`.",
        )
    return side.completion[0]["content"]
