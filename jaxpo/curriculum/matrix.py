"""Which model answers which item rightly, and the difficulty that follows. Imports no jax.

Reference: LFM2 Technical Report (arXiv 2511.23404), section 4: difficulty of an item = share of an ensemble of models
that answer it wrongly; twelve models give thirteen levels.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxpo.config.json_text import parse
from jaxpo.data.npz import read_arrays
from jaxpo.data.rows.formats import Row, list_files, read_rows
from jaxpo.data.rows.json_lines import pending
from jaxpo.errors import DataError

CORRECT_REMEDY = "Each row needs `id` and `correct`: true or false, or a list with one of them per model."


@dataclass(frozen=True)
class SuccessMatrix:
    """Graded answers of several models to the same items; DataError when an item is there twice.

    Attributes:
      models: `[M]` names.
      items: `[N]` identifiers, each once.
      correct: bool `[M, N]`.
      about: item -> what else its rows say (question, authored label, domain); equal in all models' rows.
    """

    models: tuple[str, ...]
    items: tuple[str, ...]
    correct: np.ndarray
    about: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.correct.shape != (len(self.models), len(self.items)) or self.correct.dtype != bool:
            raise ValueError(f"correct is {self.correct.dtype}{self.correct.shape} for {len(self.models)} models")
        check_names(self.items)

    @property
    def success(self) -> np.ndarray:
        """p_i = share of the models that are right, float64 `[N]`."""
        return self.correct.mean(0)

    @property
    def difficulty(self) -> np.ndarray:
        """1 - p_i, float64 `[N]`: 0 = every model is right."""
        return 1.0 - self.success

    @property
    def levels(self) -> np.ndarray:
        """Number of models that are right, int64 `[N]`, 0 (hardest) to M (easiest): M + 1 levels."""
        return self.correct.sum(0)

    def level_counts(self) -> list[int]:
        """Items per level, from 'no model is right' to 'all are': M + 1 numbers."""
        return np.bincount(self.levels, minlength=len(self.models) + 1).tolist()

    def mean_success(self, column: str) -> dict[Any, float]:
        """Mean p_i of the items with each value of a column of `about`, easiest first."""
        values = [self.about[item].get(column) for item in self.items]
        means = {v: float(self.success[[x == v for x in values]].mean()) for v in dict.fromkeys(values)}
        return dict(sorted(means.items(), key=lambda pair: -pair[1]))

    def save(self, path: Path) -> None:
        """Write `path` (.npz): models, items, correct, about as JSON; nothing in it is a pickle."""
        about = json.dumps([self.about.get(item, {}) for item in self.items], ensure_ascii=False)
        with pending(path, "wb") as file:
            np.savez_compressed(
                file,
                models=np.asarray(self.models),
                items=np.asarray(self.items),
                correct=self.correct,
                about=np.asarray(about),
            )

    @classmethod
    def load(cls, path: Path) -> SuccessMatrix:
        """Read what `save` wrote; DataError when it is something else, or holds an item twice."""
        try:
            stored = read_arrays(path)
            models, items = (tuple(map(str, stored[name].ravel())) for name in ("models", "items"))
            check_names(items, path)
            about = parse(str(stored["about"]))
            if not isinstance(about, list) or not all(isinstance(each, dict) for each in about):
                raise ValueError("what is said of the items is no list of objects")
            return cls(models, items, stored["correct"], dict(zip(items, about, strict=True)))
        except (OSError, ValueError, KeyError) as error:
            raise DataError(
                f"not a success matrix: {error}.", file=path, remedy="Name a matrix.npz of a success-matrix stage."
            ) from error


def check_names(items: Sequence[str], file: Path | None = None) -> None:
    """DataError that names the first item that is there twice: what is said of one would be taken for the other's."""
    seen: set[str] = set()
    for item in items:
        if item in seen:
            raise DataError(
                f"two items are named {item!r}.",
                file=file,
                field="id",
                remedy="Give every row an `id` of its own (without one it is named after its file and number, so two "
                "files of one name in different folders need it) and grade again.",
            )
        seen.add(item)


def read_matrix(files: Iterable[str | Path]) -> SuccessMatrix:
    """A success matrix from a `matrix.npz`, or from rows with `id` and `correct`.

    Rows come as one file per model, `correct` true or false (named after the file), or as one file whose `correct`
    holds a list with one value per model.

    Raises:
      DataError: a model without some item, an item twice, a `correct` that is no truth value; names file, row, field.
    """
    paths = [Path(f) for f in files]
    if len(paths) == 1 and paths[0].suffix == ".npz":
        return SuccessMatrix.load(paths[0])
    columns: dict[str, dict[str, bool]] = {}
    about: dict[str, dict[str, Any]] = {}
    for path in list_files(paths, part="all"):
        for row in read_rows([path]):
            item = _item(row)
            for model, right in _graded(row, path.stem).items():
                column = columns.setdefault(model, {})
                if item in column:
                    raise row.error(f"{item!r} is there twice.", field="id", remedy="Keep one row per item and model.")
                column[item] = right
            rest = {name: value for name, value in row.data.items() if name not in ("id", "correct")}
            about.setdefault(item, rest)
    return _aligned(columns, about, paths)


def _aligned(
    columns: dict[str, dict[str, bool]], about: dict[str, dict[str, Any]], paths: Sequence[Path]
) -> SuccessMatrix:
    for model, column in columns.items():
        lacking = [item for item in about if item not in column]
        if lacking:
            raise DataError(
                f"model {model!r} has no answer to {len(lacking)} of {len(about)} items, the first is {lacking[0]!r}.",
                file=next((p for p in paths if p.stem == model), paths[0]),
                field="id",
                remedy="Grade it on all items, or remove them from the other models' files.",
            )
    correct = np.asarray([[column[item] for item in about] for column in columns.values()], bool)
    return SuccessMatrix(tuple(columns), tuple(about), correct, about)


def _item(row: Row) -> str:
    if not isinstance(row.data.get("id"), str | int):
        raise row.error("the item has no name.", field="id", remedy=CORRECT_REMEDY)
    return str(row.data["id"])


def _graded(row: Row, model: str) -> dict[str, bool]:
    """Model -> right or wrong, of one row."""
    value = row.data.get("correct")
    listed = value if isinstance(value, list) else [value]
    if not listed or any(x not in (0, 1) or not isinstance(x, bool | int) for x in listed):
        raise row.error(f"{value!r} does not say right or wrong.", field="correct", remedy=CORRECT_REMEDY)
    if not isinstance(value, list):
        return {model: bool(value)}
    return {f"{model}-{i}": bool(x) for i, x in enumerate(value)}
