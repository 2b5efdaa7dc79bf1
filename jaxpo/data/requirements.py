"""What a method asks of the data, checked against the first row before anything is tokenised."""

from __future__ import annotations

from typing import Literal

from jaxpo.data.columns import REMEDIES, found
from jaxpo.data.formats import Row
from jaxpo.data.needs import Needs
from jaxpo.data.rows import canonical, detect, read_record
from jaxpo.errors import DataError

Purpose = Literal["language", "sft", "preference"]

# Segment roles each dataset type offers, and the column a missing role would come from.
ROLES = {
    "text": ("text",),
    "messages": ("completion",),
    "prompt_completion": ("completion",),
    "preference": ("chosen", "rejected"),
    "triple": ("chosen", "rejected", "gold"),
    "two_prompt": ("chosen", "rejected"),
    "unpaired": ("completion",),
    "list": ("candidate",),
    "prompt": (),
}
_COLUMN_OF_ROLE = {"candidate": "responses", "text": "text"}
SINGLE = ("text", "messages", "prompt_completion")
PAIRED = ("preference", "triple")


def check_needs(row: Row, purpose: Purpose, needs: Needs) -> tuple[str, tuple[str, ...]]:
    """Match the first row with what the method needs.

    Returns:
      The dataset type as it will be used ("unpaired" for pairs that are taken apart), and the optional columns and
      segments to read from every row.

    Raises:
      DataError: names the missing column, the file, the row and the remedy.
    """
    row = canonical(row)
    kind = detect(row)
    if purpose != "preference" and kind not in SINGLE:
        raise row.error(
            f"a {purpose} stage cannot train on rows of type {kind!r}.",
            field="completion" if "completion" not in row.data else "label",
            remedy="Give rows with text, messages, or prompt + completion (rename `chosen` to `completion`).",
        )
    if kind == "prompt":
        raise row.error(
            "there is only a prompt: nothing to train on.",
            field="completion",
            remedy="Add completion, or chosen and rejected, or responses and scores.",
        )
    if kind in PAIRED and needs.roles == ("completion",) and "label" in needs.columns:
        return "unpaired", ("label",)
    for role in needs.roles:
        if role not in ROLES[kind] and not (kind in SINGLE and role in ("text", "completion")):
            if role == "rationale":
                _require(row, kind, ("rationale", "rationale_prompt"))
                continue
            column = _COLUMN_OF_ROLE.get(role, role)
            raise _missing(row, kind, column, f"The method needs {', '.join(needs.roles)}.")
    _require(row, kind, needs.columns)
    segments = ("rationale",) if "rationale" in needs.roles else ()
    return kind, tuple(dict.fromkeys((*found(row, kind), *needs.columns, *segments)))


def takes_pairs_apart(row: Row, kind: str) -> bool:
    """True when rows hold pairs but are used as two unpaired rows each."""
    return kind == "unpaired" and detect(row) in PAIRED


def take_apart(row: Row) -> tuple[Row, Row]:
    """A pair as a good and a bad row: prompt + completion + label (TRL's unpairing)."""
    record = read_record(row, "preference")
    rest = {k: v for k, v in record.row.data.items() if k not in ("prompt", "chosen", "rejected", "gold", "label")}
    good, bad = (
        Row(row.file, row.number, {**rest, "prompt": side.prompt, "completion": side.completion, "label": label})
        for side, label in zip(record.sides, (True, False), strict=True)
    )
    return good, bad


def _require(row: Row, kind: str, columns: tuple[str, ...]) -> None:
    for name in columns:
        if name not in row.data:
            raise _missing(row, kind, name, REMEDIES.get(name, f"Add a column {name!r} to every row."))


def _missing(row: Row, kind: str, column: str, remedy: str) -> DataError:
    return row.error(f"column {column!r} is missing (these rows are of type {kind!r}).", field=column, remedy=remedy)
