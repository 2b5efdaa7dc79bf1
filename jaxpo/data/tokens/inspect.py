"""What a data file holds and what it can train: type, columns, lengths, and rows as they would be rendered."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxpo.config import Data
from jaxpo.data.chat.chat import Span, encode_many, text_of
from jaxpo.data.chat.template_choice import template_of
from jaxpo.data.media.marks import IMAGE
from jaxpo.data.rows.column_arrays import ColumnArrays
from jaxpo.data.rows.formats import Row, list_files, read_rows
from jaxpo.data.rows.records import first_row
from jaxpo.data.rows.requirements import Reading, everything
from jaxpo.data.rows.rows import Record, canonical
from jaxpo.data.rows.tagged import in_order
from jaxpo.data.rows.trainable import Fit, Seen, Use, advice, fits
from jaxpo.data.tokenizer.tokenizer import SPECIAL_TOKENS, Tokenizer
from jaxpo.data.tokens.notes import counted, note, notes_of, watched
from jaxpo.data.tokens.preview import CLOSE, LIMIT, OPEN, shorten
from jaxpo.data.tokens.rendering import Rendering, untrained
from jaxpo.data.tokens.settings import cut_of
from jaxpo.data.tokens.taken import check_ids, shown
from jaxpo.errors import EmptyRow

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions

PERCENTILES = (5, 50, 95, 100)


@dataclass(frozen=True)
class Report:
    """Every row of the files was read and checked.

    Attributes:
      path: file or folder, as it was given.
      columns: name -> what its values are, in the first row that has it.
      unit: of the lengths: "tokens", or "characters" without a tokenizer.
      lengths: role -> percentiles 5, 50, 95, 100 of the rendered length.
      samples: rendered rows, trained text in brackets.
      notes: what of a folder is not read, and how rows were read, where that is not plain to see.
      fits: what the file can train, and what it lacks for the rest.
      settings: how the texts were read, where that is not the default.
    """

    path: str
    files: tuple[str, ...]
    type: str
    rows: int
    columns: dict[str, str]
    unit: str
    lengths: dict[str, tuple[int, ...]]
    samples: tuple[str, ...]
    notes: tuple[str, ...] = ()
    fits: tuple[Fit, ...] = ()
    settings: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = advice(self.fits, self.path, self.settings) if self.fits else []
        lines += [f"{', '.join(self.files)}: type {self.type}, {self.rows} rows"]
        lines += [f"  column {name}: {what}" for name, what in self.columns.items()]
        lines += [f"  {self.unit} of {role}: {_percentiles(values)}" for role, values in self.lengths.items()]
        lines += self.notes
        for fit in self.fits:
            lines.append(f"  {_heading(fit)}:")
            lines += [f"    method {name}: {missing or 'yes'}" for name, missing in fit.table()]
        lines += [f"Rendered; trained text stands in {OPEN} {CLOSE}.", *self.samples]
        return "\n".join(lines)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        from rich.panel import Panel
        from rich.table import Table
        from rich.text import Text

        for i, line in enumerate(advice(self.fits, self.path, self.settings) if self.fits else ()):
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
        yield from (Text(note, style="yellow") for note in self.notes)
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
    data: Data | None = None,
) -> Report:
    """Read and check a file or folder.

    Args:
      path: as in `Data.train`.
      tokenizer: to count tokens instead of characters.
      samples: rows to render.
      uses: kinds of training; the report says which of them, by which methods, the file can be used for.
      data: how a stage would read the texts (`train_on`, `rendered`, `special_tokens`).

    Raises:
      DataError: the first row that cannot be used.
    """
    notes: list[str] = []
    files = list_files([path], say=notes.append)
    rendering = _rendering(data or Data(), tokenizer)
    given = first_row(files)
    first, reading = canonical(given), everything(given)
    if tokenizer is not None and IMAGE not in tokenizer.special_ids:
        reading = replace(reading, pictures=False)
    columns: dict[str, str] = {}
    empty: list[EmptyRow] = []
    records = _checked(reading, watched(read_rows(files), rendering.counts), columns, empty)
    collected, rendered = _Collected(), []
    for record in records:
        sides = _sides(record, rendering, tokenizer)
        note(record, rendering.counts)
        collected.see(record, _lengths(record, sides, tokenizer))
        if collected.rows <= samples:
            rendered.append(_sample(record, sides))
    if empty:
        notes.append(f"{len(empty)} empty row(s), at which a stage stops unless it is told to skip them; {empty[0]}")
    return Report(
        path=str(path),
        files=tuple(str(file) for file in files),
        type=reading.kind,
        rows=collected.rows,
        columns=columns,
        notes=(*notes, *notes_of(counted(rendering.counts))),
        unit="tokens" if tokenizer or reading.kind == "tokens" else "characters",
        lengths=collected.percentiles(),
        samples=tuple(rendered),
        fits=fits(uses, collected.seen(first)),
        settings=_settings(data or Data()),
    )


@dataclass
class _Collected:
    """What rows show together, as they come."""

    rows: int = 0
    lengths: dict[str, list[int]] = field(default_factory=dict)
    labels: set[bool] = field(default_factory=set)
    numbers: ColumnArrays = field(default_factory=ColumnArrays)
    tags: set[str | int] = field(default_factory=set)

    def see(self, record: Record, lengths: Iterable[int]) -> None:
        self.rows += 1
        for side, length in zip(record.sides, lengths, strict=True):
            self.lengths.setdefault(side.role, []).append(length)
            self.tags.update(word.tag for word in side.words if word.tag is not None)
        if "label" in record.columns:
            self.labels.add(record.columns["label"])
        self.numbers.see(record)

    def percentiles(self) -> dict[str, tuple[int, ...]]:
        return {role: tuple(int(p) for p in np.percentile(sizes, PERCENTILES)) for role, sizes in self.lengths.items()}

    def seen(self, first: Row) -> Seen:
        seen = frozenset(self.lengths), frozenset(self.labels), self.rows
        tags = {"tags": in_order(self.tags)} if self.tags else {}
        return Seen(first, *seen, self.numbers.arrays(), {**self.numbers.names, **tags})


def _settings(data: Data) -> dict[str, Sequence[str]]:
    given = {name: getattr(data, name) for name in ("train_on", "rendered", "special_tokens", "reasoning")}
    changed = {name: value for name, value in given.items() if value != getattr(Data(), name)}
    return {name: (value,) if isinstance(value, str) else value for name, value in changed.items()}


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


def _rendering(data: Data, tokenizer: Tokenizer | None) -> Rendering:
    # Without a tokenizer the names that are asked for are believed.
    names = tokenizer.special_ids if tokenizer else dict.fromkeys((*SPECIAL_TOKENS, *data.special_tokens))
    return Rendering(cut_of(data, names, whole=False), tuple(names), chat=template_of(tokenizer).render)


def _sides(record: Record, rendering: Rendering, tokenizer: Tokenizer | None) -> list[list[Span]]:
    """What the row renders to; DataError when nothing of an answer is trained on."""
    if tokens := record.sides[0].tokens:
        if tokenizer:
            check_ids(record, tokens, tokenizer, rendering.counts)
        return [shown(tokens, tokenizer)]
    record = rendering.as_read(record)
    sides = rendering.sides(record)
    if rendering.cut.train_on == "all":
        return [[replace(span, supervised=True) for span in spans] for spans in sides]
    if record.kind != "prompt" and not all(any(span.supervised for span in spans) for spans in sides if spans):
        raise untrained(record, rendering.cut.train_on)
    return sides


def _lengths(record: Record, sides: list[list[Span]], tokenizer: Tokenizer | None) -> list[int]:
    if tokens := record.sides[0].tokens:
        return [len(tokens.ids)]
    return [len(ids) for ids, _ in encode_many(tokenizer, sides)] if tokenizer else [len(text_of(s)) for s in sides]


def _sample(record: Record, sides: list[list[Span]]) -> str:
    parts = []
    for side, spans in zip(record.sides, sides, strict=True):
        text = ""
        for trained, group in itertools.groupby(spans, key=lambda span: span.supervised):
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
