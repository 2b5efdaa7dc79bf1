"""One model's annotations with what its length-controlled win rate takes: difficulties, gamed rows, other models."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from jaxpo.errors import DataError
from jaxpo.evaluate.alpaca import glm
from jaxpo.evaluate.alpaca.files import (
    Annotations,
    Name,
    aligned,
    check_instructions,
    read_annotations,
    read_difficulties,
    read_gamed_table,
    read_outputs,
)
from jaxpo.evaluate.intervals import Measurement
from jaxpo.evaluate.tasks.files import spaced

FITTED = "fit"
"""As the file of difficulties: they are fitted over the models at hand."""


@dataclass(frozen=True)
class Judged:
    """What was found of one model.

    Attributes:
      controlled: win rate against the baseline at equal lengths, percent.
      against: other model -> the same against it.
    """

    fit: glm.Fit
    controlled: Measurement
    against: Mapping[str, Measurement]


@dataclass(frozen=True)
class Study:
    """The judge's files.

    Attributes:
      annotations: on the model.
      others: on other models.
      difficulty: of each instruction; empty = the regression has no such term.
      gamed: rows of the baseline told to be long or short; empty = none.
      weight: lambda.
      fitted: the difficulties that were fitted here.
    """

    annotations: Annotations
    others: tuple[Annotations, ...]
    difficulty: Mapping[str, np.ndarray]
    gamed: tuple[glm.Compared, ...]
    weight: float
    fitted: Mapping[Name, float] = field(default_factory=dict)

    @classmethod
    def read(
        cls,
        path: Path,
        baseline: str,
        difficulty: str,
        gamed: Sequence[str],
        others: Sequence[str],
        *,
        weight: float,
        positional: bool,
        limit: int | None,
    ) -> Study:
        """Read and check all files; the arguments are the task's settings.

        Raises:
          DataError: names file, row, field and remedy.
        """
        annotations = read_annotations(path)
        kept = replace(annotations, rows=tuple(spaced(annotations.rows, limit)))
        beside = tuple(read_annotations(Path(name)) for name in others)
        tables = [(Path(name), read_gamed_table(Path(name))) for name in gamed]
        judged = [read_annotations(name) for name, table in tables if table is None]
        outputs = read_outputs(Path(baseline)) if baseline else []
        _check_baselines(annotations, beside, judged)
        for one in (annotations, *beside, *judged) if baseline else ():
            check_instructions(one, outputs, baseline)
        numbers = {one.name: i for i, one in enumerate(outputs)}
        fitted = _fitted((kept, *beside)) if difficulty == FITTED else {}
        by_name, by_number = (fitted, {}) if difficulty in ("", FITTED) else read_difficulties(Path(difficulty))

        def difficulties(one: Annotations) -> np.ndarray | None:
            return aligned(one, by_name, by_number, numbers, positional) if difficulty else None

        known = {_key(one): found for one in (kept, *beside) if (found := difficulties(one)) is not None}
        rows = [_without(table, not difficulty) for _, table in tables if table is not None]
        rows += [one.compared(difficulties(one)) for one in judged]
        return cls(kept, beside, known, tuple(rows), weight, fitted)

    def fit(self, one: Annotations) -> glm.Fit:
        """The regression of one of the models."""
        if one.model == one.baseline:
            return glm.BASELINE
        labelled = int((~np.isnan(one.labels)).sum())
        if labelled < glm.FOLDS:
            raise DataError(
                f"{labelled} rows with a preference are too few for {glm.FOLDS} folds.",
                file=one.file,
                remedy="Judge more instructions.",
            )
        compared = one.compared(self.difficulty.get(_key(one)))
        return glm.fit(compared, self.gamed, gamed_weight=self.weight)

    @functools.cached_property
    def found(self) -> Judged:
        """The win rates at equal lengths."""
        mine, n = self.fit(self.annotations), len(self.annotations.rows)
        difficulty = self.difficulty.get(_key(self.annotations))
        rate = lambda other: glm.win_rate(glm.predictions(mine, difficulty, n, other))  # noqa: E731
        return Judged(mine, rate(glm.BASELINE), {one.model: rate(self.fit(one)) for one in self.others})

    def notes(self) -> Iterator[str]:
        """What a reader of the numbers must know."""
        one, labels = self.annotations, self.annotations.labels
        yield f"{one.model} against {one.baseline}, {len(labels)} instructions."
        if (missing := int(np.isnan(labels).sum())) > 0:
            yield f"{missing} rows without a preference are left out of the fit and kept in its prediction."
        if not self.gamed:
            yield "without gamed rows (alpaca.gamed) nothing holds the weight of length in place."
        if not self.difficulty:
            yield "without difficulties (alpaca.difficulty) all instructions count alike."
        raw, controlled = 100 * float(np.nanmean(labels)), self.found.controlled.value
        if glm.extreme(raw, controlled):
            yield f"{controlled:.1f}% at equal lengths is far from {raw:.1f}% as judged: the fit may have failed."


def _key(one: Annotations) -> str:
    return str(one.file)


def _without(table: glm.Compared, dropped: bool) -> glm.Compared:
    """A table of gamed rows, without difficulties where the model's rows have none."""
    return replace(table, difficulty=None) if dropped else table


def _check_baselines(mine: Annotations, beside: Sequence[Annotations], gamed: Sequence[Annotations]) -> None:
    """Refuse files with another baseline, or of one model twice."""
    for one in (*beside, *gamed):
        if one.baseline != mine.baseline:
            raise one.rows[0].row.error(
                f"compares with {one.baseline!r}, but {mine.file} compares with {mine.baseline!r}.",
                field="generator_1",
                remedy="Win rates can be put together only where the baseline is the same.",
            )
    names = [one.model for one in (mine, *beside)]
    for one in beside:
        if names.count(one.model) > 1:
            raise one.rows[0].row.error(
                f"the model {one.model!r} is there twice.", field="generator_2", remedy="Leave one file out."
            )


def _fitted(files: Sequence[Annotations]) -> dict[Name, float]:
    """Difficulties over the models at hand."""
    names = list(dict.fromkeys(one.name for file in files for one in file.rows))
    number = {name: i for i, name in enumerate(names)}
    places = [np.asarray([number[one.name] for one in file.rows]) for file in files]
    known, values = glm.fit_difficulty([file.compared() for file in files], places)
    return {names[i]: value for i, value in zip(known.tolist(), values.tolist(), strict=True)}
