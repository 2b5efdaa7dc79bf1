"""What a stage's method asks of the values of its data's columns, as far as all rows together show it."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxpo.config import Stage
from jaxpo.data.rows.columns import REMEDIES, laid_out
from jaxpo.data.tokens.dataset import Dataset
from jaxpo.errors import DataError
from jaxpo.objectives.methods.rewards import RewardMethod
from jaxpo.recipe.measured import column_of_metric


def check_values(dataset: Dataset, method: Any) -> None:
    """What the method asks of the values of its columns, as far as all rows together show it.

    Raises:
      DataError: names the file, and the first row that cannot be used even alone.
    """
    _check_ties(dataset, method)
    _check_classes(dataset, method)
    named = method.check_names({name: column.names for name, column in dataset.columns.items() if column.names})
    if named:
        raise DataError(" ".join(named), file=dataset.files[0])
    columns = columns_of(dataset, method.NEEDS.columns)
    problems = method.check_columns(columns)
    if not problems:
        return
    alone = ({name: values[n : n + 1] for name, values in columns.items()} for n in range(len(dataset)))
    worst = next((n for n, row in enumerate(alone) if method.check_columns(row)), 0)
    (example,) = dataset.store.read(range(worst, worst + 1))
    field = next(iter(columns)) if len(columns) == 1 else None
    raise DataError(" ".join(problems), file=dataset.files[example.file], row=example.row, field=field)


def _check_ties(dataset: Dataset, method: Any) -> None:
    """DataError for the first tied pair, where the method takes every pair for a decided one."""
    if "tie" not in dataset.columns or "tie" in method.NEEDS.columns:
        return
    tied = np.flatnonzero(columns_of(dataset, ("tie",))["tie"])
    if not len(tied):
        return
    (example,) = dataset.store.read(tied[:1].tolist())
    raise DataError(
        f"the pair is tied, as {len(tied)} are, and {method.INFO.name} takes every pair for a decided one.",
        file=dataset.files[example.file],
        row=example.row,
        field="tie",
        remedy="Remove tied rows, or train a reward model that has ties (rao_kupper, davidson).",
    )


def _check_classes(dataset: Dataset, method: Any) -> None:
    """DataError for a group of labelled answers or steps that are all alike: of it there is no accuracy to speak of."""
    labelled = {"label": "answer", "labels": "step"}
    column = next((name for name in labelled if name in method.NEEDS.columns), None)
    if "group" not in dataset.columns or column is None or not isinstance(method, RewardMethod):
        return
    found = columns_of(dataset, ("group", column))
    for number, name in enumerate(dataset.names["group"]):
        labels = found[column][found["group"] == number].astype(np.float32)
        good = labels[labels >= 0] >= 0.5  # a step that nobody judged has a negative one
        if len(good) and good.all() == good.any():
            raise DataError(
                f"every {labelled[column]} of the group {name!r} has label {str(bool(good[0])).lower()}, so that no "
                "accuracy can be measured in it.",
                file=dataset.files[0],
                field="group",
                remedy=f"Add {labelled[column]}s of the other label, join the group with another, or leave the column "
                "out.",
            )


def check_metric(held_out: Dataset, stage: Stage) -> None:
    """The best checkpoint's metric must be measurable on the held-out rows; else DataError names the column."""
    column = column_of_metric(stage)
    if column is not None and column not in held_out.columns:
        raise DataError(
            f"{stage.name}.metric_for_best_model: {stage.metric_for_best_model} is measured on rows with a column "
            f"{column!r}, which the held-out rows lack.",
            file=held_out.files[0],
            field=column,
            remedy=f"{REMEDIES[column]} Or choose another metric.",
        )


def columns_of(dataset: Dataset, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Per-example columns of a whole dataset, shaped as in batches, for the method's checks; NaN ends short lists."""
    known = {name: dataset.columns[name] for name in names if name in dataset.columns}
    end = {name: np.nan if np.issubdtype(c.dtype, np.floating) else c.fill for name, c in known.items()}
    found = {name: np.full((len(dataset), *c.shape), end[name], c.dtype) for name, c in known.items()}
    for start in range(0, len(dataset) if found else 0, 4096):
        for n, example in enumerate(dataset.store.read(range(start, min(start + 4096, len(dataset)))), start):
            for name, values in found.items():
                laid_out(values[n, ...], example.columns[name])
    return found
