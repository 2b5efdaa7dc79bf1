"""Give every row a difficulty: the measured one where there is one, else the one its prompt predicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxpo.curriculum.predictor import FEWEST, Predictor, PredictorReport, fit_predictor
from jaxpo.data.packing.curriculum import as_difficulty
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.rows import canonical
from jaxpo.data.rows.texts import text_or_messages
from jaxpo.errors import DataError

COLUMN, SOURCE = "difficulty", "difficulty_from"


@dataclass(frozen=True)
class Annotated:
    """Rows with a difficulty.

    Attributes:
      rows: as they were read, with `difficulty` and `difficulty_from` ("measured" or "predicted").
      measured, predicted: how many of each.
      report: None where too few rows are measured for a held-out share.
    """

    rows: list[dict[str, Any]]
    measured: int
    predicted: int
    report: PredictorReport | None


def annotate(
    rows: Sequence[Row], known: Mapping[int, float], *, column: str = COLUMN, held_out: float = 0.25, seed: int = 0
) -> Annotated:
    """Keep what is known and predict the rest.

    Args:
      rows: training rows of any type that has a prompt, messages or a text.
      known: index into `rows` -> measured difficulty.
      column: name of the column that is written; what a row has there is replaced.

    Raises:
      DataError: rows to predict, and fewer than 20 known ones to learn from; a row without a prompt.
    """
    unknown = [i for i in range(len(rows)) if i not in known]
    if unknown and len(known) < FEWEST:
        raise rows[unknown[0]].error(
            f"the difficulty is missing here and in {len(unknown) - 1} other rows; only {len(known)} rows have one.",
            field=column,
            remedy=f"Grade at least {FEWEST} rows, or give every row a number.",
        )
    values = {i: float(known[i]) for i in sorted(known)}
    report = None
    if len(known) >= FEWEST:
        texts, labels = [prompt_text(rows[i]) for i in values], np.asarray(list(values.values()))
        predictor, report = fit_predictor(texts, labels, held_out=held_out, seed=seed)
        values |= _predicted(predictor, rows, unknown)
    written = [
        {**row.data, column: values[i], SOURCE: "measured" if i in known else "predicted"} for i, row in enumerate(rows)
    ]
    return Annotated(written, len(known), len(unknown), report)


def _predicted(predictor: Predictor, rows: Sequence[Row], unknown: Sequence[int]) -> dict[int, float]:
    if not unknown:
        return {}
    return dict(zip(unknown, predictor.predict([prompt_text(rows[i]) for i in unknown]).tolist(), strict=True))


def known_difficulties(rows: Sequence[Row], column: str = COLUMN) -> dict[int, float]:
    """Index -> difficulty of the rows that have a number in the column.

    Raises:
      DataError: something else than a finite number is in it.
    """
    remedy = "Use a finite number, larger for harder rows, or leave it out to have it predicted."
    return {i: as_difficulty(row, column, remedy) for i, row in enumerate(rows) if row.data.get(column) is not None}


def measured_difficulties(rows: Sequence[Row], difficulties: Mapping[str, float]) -> dict[int, float]:
    """Index -> difficulty of the rows whose `id` is among the graded items; answers to one prompt may share an id.

    Raises:
      DataError: two rows with different prompts have the same graded id, so one would get the other's difficulty.
    """
    known: dict[int, float] = {}
    first: dict[str, int] = {}
    for i, row in enumerate(rows):
        item = str(row.data.get("id"))
        if item not in difficulties:
            continue
        before = rows[first.setdefault(item, i)]
        if before is not row and prompt_text(before) != prompt_text(row):
            raise row.error(
                f"{item!r} is the id of another prompt too ({before.file}, row {before.number}).",
                field="id",
                remedy="Give each prompt an id of its own, that of its graded item.",
            )
        known[i] = difficulties[item]
    return known


def prompt_text(row: Row) -> str:
    """What the model is asked: the prompt, or everything but the assistant's turns, or the text itself.

    Raises:
      DataError: the row has none of them.
    """
    data = canonical(row).data
    for name in ("prompt", "messages", "text"):
        if name in data:
            value = text_or_messages(row, name, data[name], empty_ok=True)
            if isinstance(value, str):
                return value
            return "\n".join(str(m["content"]) for m in value if m["role"] != "assistant")
    raise DataError(
        "has no prompt whose difficulty could be predicted.",
        file=row.file,
        row=row.number,
        field="prompt",
        remedy="Give a column `prompt`, `messages` or `text`.",
    )
