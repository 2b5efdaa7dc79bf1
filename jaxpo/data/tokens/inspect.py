"""What a data file holds and what it can train: type, columns, lengths, and rows as they would be rendered."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxpo.data.rows.formats import list_files, read_rows
from jaxpo.data.rows.requirements import everything
from jaxpo.data.rows.rows import Record, Side, canonical
from jaxpo.data.rows.uses import Fit, Seen, Use, advice, fits
from jaxpo.data.rows.whole import WholeColumns
from jaxpo.data.tokens.chat import encode_spans, text_of
from jaxpo.data.tokens.examples import spans_of
from jaxpo.data.tokens.preview import CLOSE, LIMIT, OPEN, shorten
from jaxpo.data.tokens.tokenizer import Tokenizer

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions

PERCENTILES = (5, 50, 95, 100)


@dataclass(frozen=True)
class Report:
    """Every row of the files was read and checked.

    Attributes:
      path: file or folder, as it was given.
      columns: name -> what its values are, in the first row.
      unit: of the lengths: "tokens", or "characters" without a tokenizer.
      lengths: role -> percentiles 5, 50, 95, 100 of the rendered length.
      samples: rendered rows, trained text in brackets.
      fits: what the file can train, and what it lacks for the rest.
    """

    path: str
    files: tuple[str, ...]
    type: str
    rows: int
    columns: dict[str, str]
    unit: str
    lengths: dict[str, tuple[int, ...]]
    samples: tuple[str, ...]
    fits: tuple[Fit, ...] = ()

    def __str__(self) -> str:
        lines = advice(self.fits, self.path) if self.fits else []
        lines += [f"{', '.join(self.files)}: type {self.type}, {self.rows} rows"]
        lines += [f"  column {name}: {what}" for name, what in self.columns.items()]
        lines += [f"  {self.unit} of {role}: {_percentiles(values)}" for role, values in self.lengths.items()]
        for fit in self.fits:
            lines.append(f"  {_heading(fit)}:")
            lines += [f"    method {name}: {missing or 'yes'}" for name, missing in fit.table()]
        lines += [f"Rendered; trained text stands in {OPEN} {CLOSE}.", *self.samples]
        return "\n".join(lines)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        from rich.panel import Panel
        from rich.table import Table
        from rich.text import Text

        for i, line in enumerate(advice(self.fits, self.path) if self.fits else ()):
            yield Text(line, style="bold green" if i == 0 else "")
        yield Text(f"{', '.join(self.files)}\ntype {self.type}, {self.rows} rows", style="bold")
        table = Table("column", "values", box=None)
        for name, what in self.columns.items():
            table.add_row(name, what)
        yield table
        table = Table("role", *(f"{p}%" if p < 100 else "max" for p in PERCENTILES), box=None, title=self.unit)
        for role, values in self.lengths.items():
            table.add_row(role, *(str(v) for v in values))
        yield table
        for fit in self.fits:
            table = Table("method", "can be trained", box=None, title=_heading(fit), title_justify="left")
            for name, missing in fit.table():
                table.add_row(name, Text(missing, style="red") if missing else Text("yes", style="green"))
            yield table
        for sample in self.samples:
            yield Panel(Text(sample), title=f"rendered; trained text in {OPEN} {CLOSE}", title_align="left")


def inspect(
    path: str | Path,
    *,
    tokenizer: Tokenizer | None = None,
    samples: int = 2,
    uses: Sequence[Use] = (),
) -> Report:
    """Read and check a file or folder.

    Args:
      path: as in `Data.train`.
      tokenizer: to count tokens instead of characters.
      samples: rows to render.
      uses: kinds of training; the report says which of them, by which methods, the file can be used for.

    Raises:
      DataError: the first row that cannot be used.
    """
    files = list_files([path])
    rows = read_rows(files)
    first = canonical(next(rows))
    reading = everything(first)
    records = (reading.record(row) for row in itertools.chain([first], rows))
    lengths: dict[str, list[int]] = {}
    shown: list[str] = []
    labels: set[bool] = set()
    numbers = WholeColumns()
    count = 0
    for count, record in enumerate(records, start=1):
        for side in record.sides:
            lengths.setdefault(side.role, []).append(_length(record, side, tokenizer))
        if "label" in record.columns:
            labels.add(record.columns["label"])
        numbers.see(record)
        if count <= samples:
            shown.append(_sample(record))
    seen = Seen(first, frozenset(lengths), frozenset(labels), count, numbers.arrays())
    return Report(
        path=str(path),
        files=tuple(str(file) for file in files),
        type=reading.kind,
        rows=count,
        columns={name: _what(value) for name, value in first.data.items()},
        unit="tokens" if tokenizer else "characters",
        lengths={role: tuple(int(p) for p in np.percentile(sizes, PERCENTILES)) for role, sizes in lengths.items()},
        samples=tuple(shown),
        fits=fits(uses, seen),
    )


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


def _heading(fit: Fit) -> str:
    """Over the methods of one use."""
    choice = " --stage.loss NAME" if len(fit.missing) > 1 else ""
    return f"{fit.use.name}, jaxpo run {fit.use.recipe}{choice}"


def _what(value: Any) -> str:
    if isinstance(value, list):
        return f"list of {len(value)}"
    if isinstance(value, dict):
        return f"object with {', '.join(value)}"
    return f"{type(value).__name__}, {shorten(str(value), 60)!r}" if isinstance(value, str) else f"{value!r}"


def _percentiles(values: tuple[int, ...]) -> str:
    return ", ".join(f"{p}% {v}" if p < 100 else f"max {v}" for p, v in zip(PERCENTILES, values, strict=True))
