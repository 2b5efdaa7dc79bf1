"""`.csv` and `.tsv`: a header, then one row per record, quoted as RFC 4180 says. Cells are text.

A cell has no type, so texts stay as they are written ("007", "true"), and only the columns that hold numbers, lists or
objects in every dataset type are read as JSON; an empty cell there is a missing value.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxpo.data.rows.files.encoding import characters, undecodable
from jaxpo.data.rows.files.json_text import DECODER, checked
from jaxpo.errors import DataError

NUMBERS = ("margin", "label", "weight", "difficulty", "correct", "inter_sign", "level", "tie", "smoothing")
STRUCTURED = (
    *("messages", "conversations", "conversation", "history", "tools", "responses", "scores", "steps", "items"),
    *("relevance", "rewards", "votes", "intra", "chosen_spans", "rejected_spans", "chosen_keywords"),
    *("rejected_keywords", "chosen_parts", "rejected_parts", "completions", "ratings", "responsibilities", "samples"),
    *("input_ids", "labels", "attention_mask", "assistant_masks", "assistant_mask", "completion_mask"),
    *("completion_masks", "loss_mask", "loss_masks", "documents"),
)
_WORDS = {"true": True, "false": False}
_LONGEST_CELL = (1 << 31) - 1


def read(file: Path, delimiter: str = ",") -> Iterator[tuple[int, Any]]:
    """The number of every record, the header not counted, and its cells by column, or what is wrong with them."""
    csv.field_size_limit(_LONGEST_CELL)
    number = 0
    with characters(file, newline="") as text:
        records = csv.reader(text, delimiter=delimiter, strict=True)
        try:
            header = _header(file, next(records, []))
            for cells in records:
                if not cells:
                    continue
                number += 1
                yield number, _values_or_error(file, number, header, cells)
        except csv.Error as error:
            remedy = 'Cells with quotes, separators or line breaks stand in "...", with quotes doubled.'
            raise DataError(f"not a valid table: {error}.", file=file, row=number + 1, remedy=remedy) from error


read_tabs = functools.partial(read, delimiter="\t")


def _header(file: Path, names: list[str]) -> list[str]:
    if len(names) == 1 and any(mark in names[0] for mark in ";\t|"):
        mark = next(mark for mark in ";\t|" if mark in names[0])
        raise DataError(
            f"the columns are separated by {mark!r}.", file=file, remedy="Write it with commas, or as .tsv."
        )
    seen: set[str] = set()
    for name in names:
        if (foreign := undecodable(name)) is not None:
            raise DataError(f"the header is {foreign}", file=file)
        if name in seen or not name:
            what = "stands twice in the header" if name else "has no name"
            raise DataError(f"column {name!r} {what}.", file=file, field=name, remedy="Give every column its own name.")
        seen.add(name)
    return names


def _values_or_error(file: Path, number: int, header: list[str], cells: list[str]) -> Any:
    try:
        return _values(file, number, header, cells)
    except DataError as error:
        return error


def _values(file: Path, number: int, header: list[str], cells: list[str]) -> dict[str, Any]:
    if len(cells) != len(header):
        raise DataError(
            f"{len(cells)} cells under {len(header)} columns.",
            file=file,
            row=number,
            remedy='Quote cells that hold the separator: "a, b".',
        )
    return {name: _value(file, number, name, cell) for name, cell in zip(header, cells, strict=True)}


def _value(file: Path, number: int, name: str, cell: str) -> Any:
    if (foreign := undecodable(cell)) is not None:
        raise DataError(str(foreign), file=file, row=number, field=name)
    if name in NUMBERS or name in STRUCTURED:
        return _parsed(file, number, name, cell.strip())
    return cell


def _parsed(file: Path, number: int, name: str, cell: str) -> Any:
    if not cell:
        return None
    if cell.lower() in _WORDS:
        return _WORDS[cell.lower()]
    try:
        value = DECODER.decode(cell)
    except (ValueError, RecursionError) as error:
        wanted = "a number" if name in NUMBERS else "JSON"
        raise DataError(
            f"expected {wanted}, found {cell[:60]!r}.",
            file=file,
            row=number,
            field=name,
            remedy="Save the rows as JSONL, which has lists and numbers.",
        ) from error
    return checked(value, cell, file, number)
