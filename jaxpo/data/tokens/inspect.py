"""What a data file holds and what it can train: type, columns, lengths, and rows as they would be rendered."""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxpo.data.rows.formats import Row, list_files, read_rows
from jaxpo.data.rows.needs import Needs
from jaxpo.data.rows.requirements import Purpose, Reading, absent_everywhere, check_needs, everything
from jaxpo.data.rows.rows import Record, Side, canonical, detect
from jaxpo.data.tokens.chat import encode_spans, text_of
from jaxpo.data.tokens.examples import spans_of
from jaxpo.data.tokens.preview import CLOSE, LIMIT, OPEN, shorten
from jaxpo.data.tokens.records import first_row
from jaxpo.data.tokens.tokenizer import Tokenizer
from jaxpo.errors import DataError, EmptyRow

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions

PERCENTILES = (5, 50, 95, 100)


@dataclass(frozen=True)
class Report:
    """Every row of the files was read and checked.

    Attributes:
      columns: name -> what its values are, in the first row that has it.
      unit: of the lengths: "tokens", or "characters" without a tokenizer.
      lengths: role -> percentiles 5, 50, 95, 100 of the rendered length.
      samples: rendered rows, trained text in brackets.
      methods: name -> "" when the file can train it, else what is missing.
      notes: what of a folder is not read.
    """

    files: tuple[str, ...]
    type: str
    rows: int
    columns: dict[str, str]
    unit: str
    lengths: dict[str, tuple[int, ...]]
    samples: tuple[str, ...]
    methods: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{', '.join(self.files)}: type {self.type}, {self.rows} rows", *self.notes]
        lines += [f"  column {name}: {what}" for name, what in self.columns.items()]
        lines += [f"  {self.unit} of {role}: {_percentiles(values)}" for role, values in self.lengths.items()]
        lines += [f"  method {name}: {missing or 'yes'}" for name, missing in self.methods.items()]
        lines += [f"Rendered; trained text stands in {OPEN} {CLOSE}.", *self.samples]
        return "\n".join(lines)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        from rich.panel import Panel
        from rich.table import Table
        from rich.text import Text

        yield Text(f"{', '.join(self.files)}\ntype {self.type}, {self.rows} rows", style="bold")
        for note in self.notes:
            yield Text(note, style="yellow")
        table = Table("column", "values", box=None)
        for name, what in self.columns.items():
            table.add_row(name, what)
        yield table
        table = Table("role", *(f"{p}%" if p < 100 else "max" for p in PERCENTILES), box=None, title=self.unit)
        for role, values in self.lengths.items():
            table.add_row(role, *(str(v) for v in values))
        yield table
        if self.methods:
            table = Table("method", "can be trained", box=None)
            for name, missing in self.methods.items():
                table.add_row(name, Text(missing, style="red") if missing else Text("yes", style="green"))
            yield table
        for sample in self.samples:
            yield Panel(Text(sample), title=f"rendered; trained text in {OPEN} {CLOSE}", title_align="left")


def inspect(
    path: str | Path,
    *,
    tokenizer: Tokenizer | None = None,
    samples: int = 2,
    methods: Mapping[str, Needs] | None = None,
    of_sft: Container[str] = (),
) -> Report:
    """Read and check a file or folder.

    Args:
      path: as in `Data.train`.
      tokenizer: to count tokens instead of characters.
      samples: rows to render.
      methods: name -> what it needs; the report says which of them the file can train.
      of_sft: names of those that run in a stage of fine-tuning or distillation, which reads texts and completions only.

    Raises:
      DataError: the first row that cannot be used.
    """
    notes: list[str] = []
    files = list_files([path], say=notes.append)
    first = canonical(first_row(files))
    reading = everything(first)
    columns: dict[str, str] = {}
    empty: list[EmptyRow] = []
    records = _checked(reading, read_rows(files), columns, empty)
    lengths: dict[str, list[int]] = {}
    shown: list[str] = []
    labels: set[bool] = set()
    count = 0
    for count, record in enumerate(records, start=1):
        for side in record.sides:
            lengths.setdefault(side.role, []).append(_length(record, side, tokenizer))
        if "label" in record.columns:
            labels.add(record.columns["label"])
        if count <= samples:
            shown.append(_sample(record))
    if empty:
        notes.append(f"{len(empty)} empty row(s), at which a stage stops unless it is told to skip them; {empty[0]}")
    return Report(
        files=tuple(str(file) for file in files),
        type=reading.kind,
        rows=count,
        columns=columns,
        unit="tokens" if tokenizer else "characters",
        lengths={role: tuple(int(p) for p in np.percentile(sizes, PERCENTILES)) for role, sizes in lengths.items()},
        samples=tuple(shown),
        methods={
            name: _missing(first, "sft" if name in of_sft else "preference", needs, set(lengths), labels, count)
            for name, needs in (methods or {}).items()
        },
        notes=tuple(notes),
    )


def _checked(reading: Reading, rows: Iterable[Row], columns: dict[str, str], empty: list[EmptyRow]) -> Iterator[Record]:
    """The records of rows; columns are added where they are first met, and what is wrong with empty rows to `empty`."""
    for row in rows:
        reading.check_alike(row)
        for name, value in canonical(row).data.items():
            if name not in columns:
                columns[name] = _what(value)
        try:
            yield reading.record(row)
        except EmptyRow as error:
            empty.append(error)


def _length(record: Record, side: Side, tokenizer: Tokenizer | None) -> int:
    spans = spans_of(record, side, "auto")
    return len(encode_spans(tokenizer, spans)[0]) if tokenizer else len(text_of(spans))


def _sample(record: Record) -> str:
    parts = []
    for side in record.sides:
        text = ""
        for trained, group in itertools.groupby(spans_of(record, side, "auto"), key=lambda span: span.supervised):
            piece = shorten(text_of(list(group)), LIMIT // 2)
            text += f"{OPEN}{piece}{CLOSE}" if trained else piece
        parts.append(f"[{side.role}] {text}")
    return "\n".join(parts)


def _missing(row: Row, purpose: Purpose, needs: Needs, roles: set[str], labels: set[bool], rows: int) -> str:
    """Why a method cannot be trained on rows like this one; "" when it can.

    Args:
      roles, labels: those that occur in the file.
    """
    try:
        check_needs(row, purpose, needs)
    except DataError as error:
        unread = error.field in row.data
        return f"its stage reads no rows of type {detect(row)!r}" if unread else f"no column {error.field!r}"
    if column := absent_everywhere(needs, roles):
        return f"no column {column!r}"
    if "label" in needs.columns and len(labels) == 1:
        return f"no row with label {str(True not in labels).lower()}"
    if "kl" in needs.roles and rows == 1 and labels:
        return "a single row"
    return ""


def _what(value: Any) -> str:
    if isinstance(value, list):
        return f"list of {len(value)}"
    if isinstance(value, dict):
        return f"object with {', '.join(value)}"
    return f"{type(value).__name__}, {shorten(str(value), 60)!r}" if isinstance(value, str) else f"{value!r}"


def _percentiles(values: tuple[int, ...]) -> str:
    return ", ".join(f"{p}% {v}" if p < 100 else f"max {v}" for p, v in zip(PERCENTILES, values, strict=True))
