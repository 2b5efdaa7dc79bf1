"""Calibration responses of VPO: one response of a fixed distribution beside every pair."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxpo.config import Work
from jaxpo.config.places import OtherFile
from jaxpo.construct.on_policy.samples import draw_samples
from jaxpo.data.rows.formats import read_rows
from jaxpo.data.rows.json_lines import write_jsonl
from jaxpo.errors import DataError
from jaxpo.judges.questions import Question, read_questions
from jaxpo.sampling.sampler import Sampler

if TYPE_CHECKING:
    from jaxpo.construct.context import WorkContext

ROWS, COLUMN = "rows.jsonl", "calibration"


@dataclass(frozen=True)
class Calibrate(Work):
    """Rows of pairs with a column `calibration`: a response to their prompt that an earlier stage's model drew.

    The reference's responses make VPO's value a KL of the reference to the policy; those of the last iterate drive the
    policy away from where it is. Rows whose response has no text, or whose prompt leaves no room for one, are left out
    and counted.

    Attributes:
      rows: pairs.
      model: the stage that draws: of the reference, or of an iterate.
      temperature, max_new_tokens: of the draw; a response that is cut off counts as it stands.
      max_rows: responses that are drawn at once.
    """

    name: str = "calibrate"
    rows: tuple[OtherFile, ...] = ()
    model: str = "previous"
    temperature: float = 1.0
    max_new_tokens: int = 128
    max_rows: int = 64

    def outputs(self) -> tuple[str, ...]:
        return (ROWS,)

    def inputs(self) -> tuple[str, ...]:
        return self.rows

    def needed_models(self) -> tuple[str, ...]:
        return (self.model,)

    def problems(self) -> list[str]:
        found = super().problems()
        if not self.rows:
            found.append("rows names no file.")
        if not self.temperature > 0:
            found.append(f"temperature is {self.temperature} but must be greater than 0.")
        for name in ("max_new_tokens", "max_rows"):
            if getattr(self, name) < 1:
                found.append(f"{name} is {getattr(self, name)} but must be at least 1.")
        return found

    def check_inputs(self, files: Sequence[Path]) -> None:
        self._questions(files)

    def _questions(self, files: Sequence[Path]) -> list[Question]:
        rows = list(read_rows(files))
        for row in rows:
            if COLUMN in row.data:
                raise row.error("there is a calibration response already.", field=COLUMN, remedy="Remove the column.")
        return read_questions(rows)

    def run(self, context: WorkContext) -> dict[str, Any]:
        questions, counts = self._questions(context.files(self.rows)), Counter[str]()
        drawn = draw_samples(
            questions,
            context.network(self.model),
            context.folder,
            n=1,
            sampler=Sampler(temperature=self.temperature),
            max_new_tokens=self.max_new_tokens,
            seed=context.seed,
            max_rows=self.max_rows,
            counts=counts,
            say=context.say,
            check=context.check,
        )
        made = []
        for question in questions:
            if question.number not in drawn:
                continue
            (sample,) = drawn[question.number]
            if not sample.text.strip():
                counts["rows_left_out_without_text"] += 1
                continue
            made.append({**question.row.data, COLUMN: question.as_written(sample.text)})
        if not made:
            raise DataError(f"stage {self.name}: no row is left: {dict(counts)}.")
        write_jsonl(context.folder / ROWS, made)
        return {"rows_read": len(questions), "rows": len(made), **counts}
