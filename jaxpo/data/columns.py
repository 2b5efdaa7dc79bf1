"""Per-example columns of numbers: which are known, how each is checked, and the array it becomes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxpo.data.formats import Row

# Columns read from every row when the first row has them, by dataset type.
_OF_PAIRS = ("margin", "annotator", "rewards", "votes")
OPTIONAL = {
    "preference": _OF_PAIRS,
    "triple": _OF_PAIRS,
    "two_prompt": _OF_PAIRS,
    "unpaired": ("label", "annotator"),
    "list": ("scores", "annotator"),
}
DTYPES = {"label": np.bool_, "annotator": np.int32}

REMEDIES = {
    "margin": "Add a column `margin`: a number, how much better the chosen one is.",
    "annotator": "Add a column `annotator`: a name or number saying who judged the pair.",
    "rewards": 'Add a column `rewards`: {"name": [chosen, rejected]}.',
    "votes": "Add a column `votes`: [votes for chosen, votes for rejected].",
    "label": "Add a column `label`: true for good completions, false for bad ones.",
    "scores": "Add a column `scores`: one number per response.",
    "rationale": "Add the columns `rationale` and `rationale_prompt`.",
}


def found(row: Row, kind: str) -> tuple[str, ...]:
    """The known columns for rows of this type that this row has."""
    return tuple(name for name in OPTIONAL.get(kind, ()) if name in row.data)


def extra_columns(row: Row, names: tuple[str, ...], *, candidates: int) -> dict[str, Any]:
    """Check and convert a row's optional columns; `scores` must have one entry per candidate."""
    return {name: _CHECKS[name](row, row.data[name], candidates) for name in names if name in _CHECKS}


def _number(row: Row, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise row.error(f"expected a number, found {value!r}.", field=name, remedy="Use a finite number.")
    if not math.isfinite(value):
        raise row.error(f"{value} is not finite.", field=name, remedy="Use a finite number or remove the row.")
    return float(value)


def _margin(row: Row, value: Any, candidates: int) -> float:
    return _number(row, "margin", value)


def _annotator(row: Row, value: Any, candidates: int) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise row.error(f"expected a name or a number, found {value!r}.", field="annotator")
    return str(value)


def _rewards(row: Row, value: Any, candidates: int) -> dict[str, list[float]]:
    if not isinstance(value, dict) or not value or not all(isinstance(v, list) and len(v) == 2 for v in value.values()):
        raise row.error("expected {name: [chosen, rejected]}.", field="rewards", remedy=REMEDIES["rewards"])
    return {name: [_number(row, "rewards", x) for x in value[name]] for name in sorted(value)}


def _votes(row: Row, value: Any, candidates: int) -> list[float]:
    if not isinstance(value, list) or len(value) != 2:
        raise row.error("expected two counts.", field="votes", remedy=REMEDIES["votes"])
    votes = [_number(row, "votes", x) for x in value]
    if min(votes) < 0 or sum(votes) <= 0:
        raise row.error(f"{value} are not counts of votes.", field="votes", remedy=REMEDIES["votes"])
    return votes


def _label(row: Row, value: Any, candidates: int) -> bool:
    if value not in (0, 1) or not isinstance(value, bool | int | float):
        raise row.error(f"{value!r} is not a label.", field="label", remedy="Use true/false or 1/0.")
    return bool(value)


def _scores(row: Row, value: Any, candidates: int) -> list[float]:
    return [_number(row, "scores", x) for x in value]


_CHECKS: dict[str, Callable[[Row, Any, int], Any]] = {
    "margin": _margin,
    "annotator": _annotator,
    "rewards": _rewards,
    "votes": _votes,
    "label": _label,
    "scores": _scores,
}
