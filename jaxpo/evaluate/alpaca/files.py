"""AlpacaEval's files: outputs, a judge's annotations, difficulties of instructions, and gamed rows. Imports no jax.

outputs       {"instruction", "output", "generator"}
annotations   {"instruction", "output_1", "output_2", "generator_1", "generator_2", "preference"}; 2 is the model
difficulties  {"instruction", "difficulty"}, or the reference's table: index, instruction_difficulty
gamed rows    annotations, or the reference's table: index, std_delta_len, instruction_difficulty, preference
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxpo.data.rows.formats import Row, read_rows
from jaxpo.evaluate.alpaca.glm import Compared, label_of, relative_length

Name = tuple[str, int]
"""An instruction, and how many of the same text stood before it."""
OUTPUT = ("instruction", "output", "generator")
ANNOTATION = ("instruction", "output_1", "output_2", "generator_1", "generator_2")
TABLE = ("index", "std_delta_len", "instruction_difficulty", "preference")


@dataclass(frozen=True)
class Output:
    """An answer to an instruction."""

    row: Row
    name: Name
    text: str
    generator: str


@dataclass(frozen=True)
class Annotation:
    """Two answers to an instruction, and which of them a judge prefers.

    Attributes:
      baseline, model: the texts.
      preference: 1 = baseline ... 2 = model, 0 = draw; NaN = none was given.
      position: of its row in the file, from 0.
    """

    row: Row
    name: Name
    baseline: str
    model: str
    preference: float
    position: int


@dataclass(frozen=True)
class Annotations:
    """A judge's file on one model.

    Attributes:
      model, baseline: the names of their generators.
    """

    file: Path
    model: str
    baseline: str
    rows: tuple[Annotation, ...]

    @property
    def labels(self) -> np.ndarray:
        """y, `[n]`."""
        return label_of(np.asarray([one.preference for one in self.rows]))

    def compared(self, difficulty: np.ndarray | None = None) -> Compared:
        """For the regression."""
        sizes = [(len(one.baseline), len(one.model)) for one in self.rows]
        return Compared(self.labels, relative_length(*zip(*sizes, strict=True)), difficulty)


def holds_annotations(path: Path) -> bool:
    """Whether a file's first row has two answers."""
    return "output_2" in next(iter(read_rows([path], part="eval"))).data


def read_outputs(path: Path) -> list[Output]:
    """All rows of a file of outputs; DataError names file, row, field and remedy."""
    return outputs_of(list(read_rows([path], part="eval")))


def outputs_of(rows: Sequence[Row]) -> list[Output]:
    """The outputs that rows hold; DataError as of `read_outputs`."""
    made = []
    for row, name in zip(rows, _names(rows), strict=True):
        _, text, generator = (_text(row, column, empty=column == "output") for column in OUTPUT)
        made.append(Output(row, name, text, generator))
    return made


def read_annotations(path: Path) -> Annotations:
    """A judge's file: one model against one baseline.

    Raises:
      DataError: a column that is missing, a preference out of range, several models or baselines, or no preference at
        all; names file, row, field and remedy.
    """
    rows = list(read_rows([path], part="eval"))
    found: list[Annotation] = []
    pairs: dict[tuple[str, str], Row] = {}
    for position, (row, name) in enumerate(zip(rows, _names(rows), strict=True)):
        _, first, second, baseline, model = (_text(row, c, empty=c.startswith("output")) for c in ANNOTATION)
        pairs.setdefault((baseline, model), row)
        found.append(Annotation(row, name, first, second, _preference(row), position))
    if len(pairs) > 1:
        (one, _), (other, row) = list(pairs.items())[:2]
        raise row.error(
            f"compares {other[1]!r} with {other[0]!r}, but the rows before compare {one[1]!r} with {one[0]!r}.",
            field="generator_2",
            remedy="Give each model its own file.",
        )
    if all(np.isnan(one.preference) for one in found):
        raise rows[0].error("no row has a preference.", field="preference", remedy="Give the judge's annotations.")
    ((baseline, model),) = pairs
    return Annotations(path, model, baseline, tuple(found))


def check_instructions(annotations: Annotations, outputs: Sequence[Output], known: str) -> None:
    """Refuse a judge's file about other instructions, or another baseline's answers, than these.

    Raises:
      DataError: names file, row, field and remedy.
    """
    given = {one.name: one for one in outputs}
    for one in annotations.rows:
        if one.name not in given:
            raise one.row.error(
                f"the instruction {one.name[0][:60]!r} is not one of the baseline's ({known}).",
                field="instruction",
                remedy="Give the judge's file of the same instructions as the baseline's.",
            )
        if given[one.name].text != one.baseline:
            raise one.row.error(
                f"the baseline's answer is another one than in {known}.",
                field="output_1",
                remedy="Give the outputs that the judge compared with.",
            )


def read_difficulties(path: Path) -> tuple[dict[Name, float], dict[int, float]]:
    """By instruction, or by its number among the baseline's; one of the two is empty."""
    rows = list(read_rows([path], part="eval"))
    if "instruction" in rows[0].data:
        by_name = zip(_names(rows), (_number(row, "difficulty") for row in rows), strict=True)
        return dict(by_name), {}
    return {}, {int(_number(row, "index")): _number(row, "instruction_difficulty") for row in rows}


def read_gamed_table(path: Path) -> Compared | None:
    """The reference's own table of gamed rows; None where a file is none."""
    rows = list(read_rows([path], part="eval"))
    if "std_delta_len" not in rows[0].data:
        return None
    columns = {name: np.asarray([_number(row, name) for row in rows]) for name in TABLE[1:]}
    return Compared(columns["preference"], np.tanh(columns["std_delta_len"]), columns["instruction_difficulty"])


def annotation_row(output: Output, baseline: Output, preference: float | None, annotator: str) -> dict[str, Any]:
    """One row of AlpacaEval's annotations."""
    return {
        "instruction": output.name[0],
        "output_1": baseline.text,
        "generator_1": baseline.generator,
        "output_2": output.text,
        "generator_2": output.generator,
        "annotator": annotator,
        "preference": preference,
    }


def _names(rows: Sequence[Row]) -> list[Name]:
    seen: Counter[str] = Counter()
    names = []
    for row in rows:
        text = _text(row, "instruction")
        names.append((text, seen[text]))
        seen[text] += 1
    return names


def _text(row: Row, column: str, *, empty: bool = False) -> str:
    value: Any = row.data.get(column)
    if not isinstance(value, str):
        found = "is missing" if value is None else f"must be a text, found {type(value).__name__}"
        remedy = f"Outputs have {', '.join(OUTPUT)}; annotations {', '.join(ANNOTATION)} and preference."
        raise row.error(f"column {column!r} {found}.", field=column, remedy=remedy)
    if not empty and not value.strip():
        raise row.error("is empty.", field=column, remedy="Fill it or remove the row.")
    return value


def _preference(row: Row) -> float:
    value = row.data.get("preference")
    if value is None:
        return float("nan")
    number = _number(row, "preference")
    if np.isnan(number) or number == 0 or 1 <= number <= 2:
        return number
    remedy = "1 prefers output_1, 2 prefers output_2, what lies between says how much; 0 is a draw."
    raise row.error(f"is {number:g}.", field="preference", remedy=remedy)


def _number(row: Row, column: str) -> float:
    value: Any = row.data.get(column)
    try:
        return float(value)
    except (TypeError, ValueError):
        raise row.error(f"must be a number, found {value!r}.", field=column) from None


def aligned(
    annotations: Annotations,
    by_name: Mapping[Name, float],
    by_number: Mapping[int, float],
    numbers: Mapping[Name, int],
    positional: bool,
) -> np.ndarray:
    """The difficulty of every row, `[n]`.

    Args:
      numbers: of the instructions among the baseline's.
      positional: a row's position in the judge's file takes the place of its instruction's number, as in the
        reference, where a file that lacks rows gets the difficulties of others.

    Raises:
      DataError: an instruction without difficulty, or whose number nobody knows; names file and row.
    """
    found = []
    in_order = by_number or dict(enumerate(by_name.values()))
    for one in annotations.rows:
        if positional:
            value = in_order.get(one.position)
        else:
            value = by_name.get(one.name) if by_name else by_number.get(numbers.get(one.name, -1))
        if value is None:
            raise one.row.error(
                f"the instruction {one.name[0][:60]!r} has no difficulty.",
                field="instruction",
                remedy="Give one for every instruction; difficulties that have numbers alone need --set "
                "alpaca.baseline=OUTPUTS, whose order they are in, or --set alpaca.positional=true.",
            )
        found.append(value)
    return np.asarray(found)
