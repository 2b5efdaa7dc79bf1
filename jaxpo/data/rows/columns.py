"""Per-example columns of numbers: which are known, how each is checked, and the array it becomes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxpo.data.rows.formats import Row

# Columns read from every row when the first row has them, by dataset type.
NAMES = ("annotator", "user", "group")
"""Columns of names: who judged a row, whose taste it shows, and which part of the rows it belongs to."""
_OF_PAIRS = ("margin", *NAMES, "rewards", "responsibilities", "votes", "tie", "smoothing")
_OF_ANSWERS = (*NAMES, "rewards")
OPTIONAL = {
    "preference": _OF_PAIRS,
    "triple": _OF_PAIRS,
    "two_prompt": _OF_PAIRS,
    "unpaired": ("label", *_OF_ANSWERS, "weight"),
    "list": ("scores", *_OF_ANSWERS),
    "tree": ("scores", *_OF_ANSWERS),
    "items": ("relevance",),
    "rated": ("ratings", *_OF_ANSWERS),
    "steps": ("labels", *_OF_ANSWERS),
    "query_documents": ("scores",),
}
# What is smaller than a normal number is 0 on most devices.
_LARGEST, _SMALLEST = float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)
DTYPES = {"label": np.bool_, "tie": np.bool_, "document": np.int32, **dict.fromkeys(NAMES, np.int32)}
UNLABELLED = -1
"""Stands for a step that nobody has judged."""
# What stands where a list is shorter than the longest, and where there is no example; 0 for the others.
FILLS = {"relevance": -1, "document": -1, "labels": UNLABELLED, "ratings": math.nan}
BY_NAME = ("rewards", "ratings", "responsibilities")
"""Columns that are objects, name -> number or list of numbers, with the same names in every row."""

REMEDIES = {
    "margin": "Add a column `margin`: a number, how much better the chosen one is.",
    "annotator": "Add a column `annotator`: a name or number saying who judged the pair.",
    "user": "Add a column `user`: a name or number saying whose taste the row shows.",
    "group": "Add a column `group`: a name or number saying which part of the rows it belongs to.",
    "tie": "Add a column `tie`: true where neither response is the better one, else false.",
    "ratings": 'Add a column `ratings`: {"name": number}, null where it was not rated.',
    "labels": "Add a column `labels`: for each step true or false, a number in [0, 1], or null where nobody judged it.",
    "rewards": 'Add a column `rewards`: {"name": [chosen, rejected]}, of lists a number per response, of single '
    "answers one number.",
    "responsibilities": 'Add a column `responsibilities`: {"group": weight}; `AssignUsers` writes it.',
    "votes": "Add a column `votes`: [votes for chosen, votes for rejected].",
    "smoothing": "Add a column `smoothing`: a number in [0, 1), how likely the label is the wrong way round; "
    "`UncertainPairs` and `TreeSearch` write it.",
    "label": "Add a column `label`: true for good completions, false for bad ones.",
    "scores": "Add a column `scores`: one number per response.",
    "weight": "Add a column `weight`: a positive number, how much the row counts.",
    "relevance": "Add a column `relevance`: one grade 0, 1, 2, ... per item.",
    "inter_sign": "Add the columns `inter_prompt` and `inter_sign` (1 or -1).",
    "calibration": "Add a column `calibration`: a response of a fixed distribution; `Calibrate` draws it.",
    "rationale": "Add the columns `rationale` and `rationale_prompt`.",
}


def found(row: Row, kind: str) -> tuple[str, ...]:
    """The known columns for rows of this type that this row has."""
    return tuple(name for name in OPTIONAL.get(kind, ()) if name in row.data)


def extra_columns(row: Row, names: tuple[str, ...]) -> dict[str, Any]:
    """Check and convert a row's columns of numbers."""
    return {name: _CHECKS[name](row, row.data[name]) for name in names if name in _CHECKS}


def extent(value: Any) -> list[int]:
    """Shape of a column's value as rows have it; of lists of lists the longest counts."""
    if not isinstance(value, list):
        return []
    inner = [extent(x) for x in value]
    return [len(value), *max(inner, default=[])]


def laid_out(array: np.ndarray, value: Any) -> None:
    """Write a column's value to the start of an array of at least its extent, as far as its lists reach."""
    if array.ndim and value and isinstance(value[0], list):
        for row, inner in zip(array, value, strict=False):
            laid_out(row, inner)
    elif array.ndim:
        array[: len(value)] = value
    else:
        array[()] = value


def number(row: Row, name: str, value: Any) -> float:
    """A finite number that float32, in which it is computed with, can hold.

    Raises:
      DataError: something else; names file, row and field.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise row.error(f"expected a number, found {_shown(value)}.", field=name, remedy="Use a finite number.")
    if value != value or value in (math.inf, -math.inf):
        raise row.error(f"{value} is not finite.", field=name, remedy="Use a finite number or remove the row.")
    if abs(value) > _LARGEST or 0 < abs(value) < _SMALLEST:
        raise row.error(
            f"{_shown(value)} is outside the range of float32 ({_SMALLEST:.2g} to {_LARGEST:.2g}).",
            field=name,
            remedy="Scale the column, or correct the row.",
        )
    return float(value)


def _shown(value: Any) -> str:
    """A value at a length that can be read; whole numbers of any length."""
    if isinstance(value, int) and abs(value) > _LARGEST:
        return f"a whole number of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _margin(row: Row, value: Any) -> float:
    return number(row, "margin", value)


def _name_in(column: str) -> Callable[[Row, Any], str]:
    def check(row: Row, value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            remedy = f"{REMEDIES[column]} Or leave it out of all rows."
            raise row.error(f"expected a name or a number, found {_shown(value)}.", field=column, remedy=remedy)
        return str(value)

    return check


def _rewards(row: Row, value: Any) -> dict[str, Any]:
    responses, one = _responses(row.data)
    fits = isinstance(value, dict) and value and all(_is_for(v, responses) for v in value.values())
    if not fits:
        raise row.error(f"expected {{name: {one}}}.", field="rewards", remedy=REMEDIES["rewards"])
    if responses is None:
        return {name: number(row, "rewards", value[name]) for name in sorted(value)}
    return {name: [number(row, "rewards", x) for x in value[name]] for name in sorted(value)}


def _responses(data: Mapping[str, Any]) -> tuple[int | None, str]:
    """How many responses a row has, None for one that stands alone, and what a reward of it is in words."""
    if {"chosen", "rejected"} <= data.keys():
        return 2, "[chosen, rejected]"
    if "scores" in data and {"responses", "steps"} & data.keys():  # a score for each response of a list or branch
        return len(data["scores"]), f"[{len(data['scores'])} numbers, one for each score]"
    return None, "number"


def _is_for(value: Any, responses: int | None) -> bool:
    return not isinstance(value, list) if responses is None else isinstance(value, list) and len(value) == responses


def _responsibilities(row: Row, value: Any) -> dict[str, float]:
    if not isinstance(value, dict) or not value:
        raise row.error("expected {group: weight}.", field="responsibilities", remedy=REMEDIES["responsibilities"])
    return {name: number(row, "responsibilities", value[name]) for name in sorted(value)}


def _votes(row: Row, value: Any) -> list[float]:
    if not isinstance(value, list) or len(value) != 2:
        raise row.error("expected two counts.", field="votes", remedy=REMEDIES["votes"])
    votes = [number(row, "votes", x) for x in value]
    if min(votes) < 0 or sum(votes) <= 0:
        raise row.error(f"{value} are not counts of votes.", field="votes", remedy=REMEDIES["votes"])
    return votes


def _flag_in(column: str) -> Callable[[Row, Any], bool]:
    def check(row: Row, value: Any) -> bool:
        if value not in (0, 1) or not isinstance(value, bool | int | float):
            raise row.error(f"{_shown(value)} is not a {column}.", field=column, remedy="Use true/false or 1/0.")
        return bool(value)

    return check


def _ratings(row: Row, value: Any) -> dict[str, float]:
    if not isinstance(value, dict) or not value or all(rating is None for rating in value.values()):
        raise row.error("expected {name: number}, one of them at least.", field="ratings", remedy=REMEDIES["ratings"])
    found = {name: value[name] for name in sorted(value)}
    return {name: math.nan if x is None else number(row, "ratings", x) for name, x in found.items()}


def _step_labels(row: Row, value: Any) -> list[float]:
    known = [float(x) if isinstance(x, bool) else number(row, "labels", x) for x in value if x is not None]
    wrong = next((x for x in known if not 0 <= x <= 1), None)
    if wrong is not None:
        raise row.error(f"{wrong:g} is no label of a step.", field="labels", remedy=REMEDIES["labels"])
    if not known:
        raise row.error("no step is labelled.", field="labels", remedy="Label a step, or remove the row.")
    labels = iter(known)
    return [UNLABELLED if x is None else next(labels) for x in value]


def _scores(row: Row, value: Any) -> list[float]:
    return [number(row, "scores", x) for x in value]


def _weight(row: Row, value: Any) -> float:
    weight = number(row, "weight", value)
    if weight <= 0:
        raise row.error(f"{value} is not above 0.", field="weight", remedy="Remove rows that are not to count.")
    return weight


def _smoothing(row: Row, value: Any) -> float:
    share = number(row, "smoothing", value)
    if not 0 <= share < 1:
        raise row.error(f"{value} is no share of wrong labels.", field="smoothing", remedy=REMEDIES["smoothing"])
    return share


def _relevance(row: Row, value: Any) -> list[float]:
    grades = [number(row, "relevance", x) for x in value]
    if any(grade < 0 or grade != int(grade) for grade in grades):
        raise row.error(f"{value} are not grades.", field="relevance", remedy="Use whole numbers from 0 upwards.")
    return grades


def _inter_sign(row: Row, value: Any) -> float:
    if value not in (1, -1) or isinstance(value, bool):
        raise row.error(
            f"{value!r} is neither 1 nor -1.",
            field="inter_sign",
            remedy="1: the pair is clearer under inter_prompt than under prompt; -1: less clear.",
        )
    return float(value)


_CHECKS: dict[str, Callable[[Row, Any], Any]] = {
    "margin": _margin,
    **{name: _name_in(name) for name in NAMES},
    "rewards": _rewards,
    "responsibilities": _responsibilities,
    "votes": _votes,
    "label": _flag_in("label"),
    "tie": _flag_in("tie"),
    "ratings": _ratings,
    "labels": _step_labels,
    "scores": _scores,
    "weight": _weight,
    "smoothing": _smoothing,
    "relevance": _relevance,
    "inter_sign": _inter_sign,
}
