"""The work stage that measures difficulty: snapshots of earlier stages answer items, and their success orders the data.

Imports no jax: configurations hold it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxpo.config import Work
from jaxpo.config.places import OtherFile
from jaxpo.curriculum.annotate import annotate
from jaxpo.curriculum.matrix import SuccessMatrix
from jaxpo.data.rows.json_lines import whole_lines, write_jsonl
from jaxpo.data.rows.rows import Record
from jaxpo.errors import ConfigError, RunError
from jaxpo.evaluate.exact_match import greedy_answers
from jaxpo.evaluate.final_answer import grade, right_answer
from jaxpo.evaluate.perplexity import read_records
from jaxpo.evaluate.tasks.files import spaced
from jaxpo.sampling.prompts import prompt_of

MATRIX, GRADED, TRAIN, PREDICTOR = "matrix.npz", "graded.jsonl", "train.jsonl", "predictor.json"
ANSWERS = "answers"
# Answers between two looks at the clock; the unit of what an interrupted start keeps.
CHUNK = 256


@dataclass(frozen=True)
class MeasureDifficulty(Work):
    """Success matrix (checkpoints x items) -> difficulty of every row, predicted from the prompt where not graded.

    Writes `train.jsonl` (all rows with columns `difficulty` and `difficulty_from`, for a later stage with
    `Data.curriculum`), `matrix.npz`, `graded.jsonl` (success and level per graded item) and `predictor.json`.

    Attributes:
      items: prompt_completion rows whose completion ends in `#### NUMBER`, or which have a column `answer`.
      stages: earlier stages whose snapshots (`snapshot_steps`) answer; one without snapshots answers with its model.
      limit: items to grade, evenly spaced over the files; the other rows' difficulty is predicted. None = all.
      max_new_tokens: of a greedy answer.
      held_out: share of the graded items that the predictor is judged on.
    """

    name: str = "difficulty"
    items: tuple[OtherFile, ...] = ()
    stages: tuple[str, ...] = ("previous",)
    limit: int | None = 2000
    max_new_tokens: int = 32
    held_out: float = 0.25

    def outputs(self) -> tuple[str, ...]:
        return (TRAIN, MATRIX, GRADED, PREDICTOR)

    def inputs(self) -> tuple[str, ...]:
        return self.items

    def needed_models(self) -> tuple[str, ...]:
        return self.stages

    def check_inputs(self, files: Sequence[Path]) -> None:
        first: dict[str, Record] = {}
        for _, record in self._graded(read_records(files, "prompt_completion")):
            right_answer(record)
            row, other = record.row, first.setdefault(item_name(record), record)
            if other is not record:
                raise row.error(
                    f"another item is called {item_name(record)!r} too ({other.row.file}, row {other.row.number}).",
                    field="id",
                    remedy="Give every item an `id` of its own.",
                )

    def _graded(self, records: Sequence[Record]) -> list[tuple[int, Record]]:
        """The items that are answered, with their numbers, evenly spaced over the files."""
        return spaced(list(enumerate(records)), self.limit)

    def run(self, context: Any) -> dict[str, Any]:
        """Grade checkpoint by checkpoint; an interrupted one goes on where its file of answers ends.

        Raises:
          ConfigError: fewer than two checkpoints.
          DataError: an item without a right answer.
        """
        checkpoints = self._checkpoints(context)
        records = read_records(context.files(self.items), "prompt_completion")
        graded = self._graded(records)
        items = [record for _, record in graded]
        answers = [right_answer(record) for record in items]
        (context.folder / ANSWERS).mkdir(parents=True, exist_ok=True)
        correct = [self._grade(context, label, path, items, answers) for label, path in checkpoints.items()]
        names = tuple(item_name(record) for record in items)
        about = {name: _about(record) for name, record in zip(names, items, strict=True)}
        matrix = SuccessMatrix(tuple(checkpoints), names, np.asarray(correct, bool), about)
        known = dict(zip((i for i, _ in graded), matrix.difficulty.tolist(), strict=True))
        return self._write(context, matrix, [record.row for record in records], known)

    def _checkpoints(self, context: Any) -> dict[str, Path]:
        """Name -> folder of what answers, in order of training."""
        found: dict[str, Path] = {}
        for stage in self.stages:
            snapshots = context.snapshots(stage)
            folder = context.stage_folder(stage)
            found |= {f"{folder.name}-{path.name}": path for path in snapshots} or {folder.name: folder}
        if len(found) < 2:
            raise ConfigError(
                f"{self.name}.stages: {', '.join(found)} is one checkpoint; a success matrix needs several. Set "
                "snapshot_steps of the stage, or name more stages."
            )
        return found

    def _grade(
        self, context: Any, label: str, path: Path, items: Sequence[Record], answers: Sequence[str]
    ) -> list[bool]:
        """Right or wrong per item by one checkpoint, kept in `answers/LABEL.jsonl` chunk by chunk."""
        file = context.folder / ANSWERS / f"{label}.jsonl"
        done = _kept(file, [item_name(record) for record in items])
        if len(done) < len(items):
            loaded = context.load(path)
            with file.open("a", encoding="utf-8") as stream:
                for start in range(len(done), len(items), CHUNK):
                    context.check()
                    part = items[start : start + CHUNK]
                    texts = greedy_answers(
                        loaded.params["model"],
                        loaded.config,
                        context.tokenizer,
                        [prompt_of(record) for record in part],
                        max_new_tokens=self.max_new_tokens,
                        dtype=context.scorer.dtype,
                    )
                    for record, text, answer in zip(part, texts, answers[start : start + CHUNK], strict=True):
                        done.append({"id": item_name(record), "text": text, "correct": grade(text, answer)})
                        stream.write(json.dumps(done[-1], ensure_ascii=False) + "\n")
                    stream.flush()
        right = [bool(row["correct"]) for row in done]
        context.say(f"{self.name}: {label} answers {sum(right)} of {len(right)} items rightly")
        return right

    def _write(self, context: Any, matrix: SuccessMatrix, rows: list[Any], known: dict[int, float]) -> dict[str, Any]:
        annotated = annotate(rows, known, held_out=self.held_out, seed=context.seed)
        folder = context.folder
        matrix.save(folder / MATRIX)
        write_jsonl(folder / GRADED, graded_rows(matrix))
        predictor = annotated.report.record() if annotated.report else {}
        (folder / PREDICTOR).write_text(json.dumps(predictor, indent=1) + "\n", encoding="utf-8")
        write_jsonl(folder / TRAIN, annotated.rows)
        accuracy = {model: float(right.mean()) for model, right in zip(matrix.models, matrix.correct, strict=True)}
        return {
            "checkpoints": len(matrix.models),
            "items": len(matrix.items),
            "predicted": annotated.predicted,
            "accuracy": accuracy,
            "level_counts": matrix.level_counts(),
            "mean_success": {str(k): v for k, v in matrix.mean_success("level").items()},
            "predictor": predictor,
        }


def graded_rows(matrix: SuccessMatrix) -> list[dict[str, Any]]:
    """One row per item: what is known of it, `success` p_i, `level` = models that are right, `difficulty` 1 - p_i.

    What the items' own rows call `level` or `difficulty` is kept as `authored_level` and `authored_difficulty`.
    """
    measured = ("success", "level", "difficulty")
    rows = []
    for i, item in enumerate(matrix.items):
        about = {f"authored_{k}" if k in measured else k: v for k, v in matrix.about.get(item, {}).items()}
        numbers = (float(matrix.success[i]), int(matrix.levels[i]), float(matrix.difficulty[i]))
        rows.append({"id": item, **about, **dict(zip(measured, numbers, strict=True))})
    return rows


def item_name(record: Record) -> str:
    """Column `id`, or the file's name and the row's number."""
    return str(record.row.data.get("id", f"{record.row.file.name}:{record.row.number}"))


def _about(record: Record) -> dict[str, Any]:
    return {k: record.row.data[k] for k in ("level", "template", "difficulty") if k in record.row.data}


def _kept(file: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """Whole chunks that an earlier start wrote; a half-written end is cut off, so that chunks are the same again.

    Raises:
      RunError: the file answers other items.
    """
    lines = whole_lines(file)
    kept = lines[: len(lines) // CHUNK * CHUNK] if len(lines) < len(names) else lines
    if kept != lines:
        file.write_bytes(b"".join(line + b"\n" for line in kept))
    rows = [json.loads(line) for line in kept]
    if [row["id"] for row in rows] != list(names[: len(rows)]):
        raise RunError(f"{file} holds answers to other items than these; remove it to have them graded again.")
    return rows
