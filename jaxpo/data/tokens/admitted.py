"""Which rows of the files are tokenised: checked, of the names that are known, and counted."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from jaxpo.config import Data
from jaxpo.data.rows.bad_rows import BadRows
from jaxpo.data.rows.formats import read_rows
from jaxpo.data.rows.mismatched import with_mismatched
from jaxpo.data.rows.needs import Needs
from jaxpo.data.rows.records import records_of
from jaxpo.data.rows.requirements import SINGLE, Reading
from jaxpo.data.rows.rows import Record
from jaxpo.data.tokens.notes import note, watched
from jaxpo.errors import DataError, did_you_mean

CHUNK, SHOWN = 512, 3


class Rows:
    """The checked rows of some of the files, and what is counted of them.

    Attributes:
      files: all of the data set.
      bad: those that cannot be used.
    """

    def __init__(self, files: Sequence[Path], own: range, data: Data, needs: Needs, reading: Reading, apart: bool):
        self.files, self.counts = files, Counter[str](read=0, kept=0)
        self.bad = BadRows(data, self.counts, files)
        rows = watched(read_rows(files[own.start : own.stop], bad=self._unparsed), self.counts)
        checked = records_of(rows, reading, apart, data.on_empty, self.counts, self.bad)
        records = (_only_needed(record, needs) for record in checked)
        self._records = with_mismatched(records) if "kl" in needs.roles else records

    def _unparsed(self, error: DataError) -> None:
        self.counts["read"] += 1
        self.bad(error)

    def chunks(self, known: Known | None, declared: Mapping[str, Sequence[str]]) -> Iterator[list[Record]]:
        """The records that are used, of `CHUNK` that are read at a time; counted.

        Args:
          known: the names that there may be alone; those of others are left out.
          declared: the same by column, where any other is a bad row.
        """
        while chunk := list(itertools.islice(self._records, CHUNK)):
            self.counts["read"] += len(chunk)
            chunk = chunk if known is None else known.only(chunk, self.counts)
            chunk = _only_declared(chunk, declared, self.bad) if declared else chunk
            for record in chunk:
                note(record, self.counts)
            yield chunk


@dataclass(frozen=True)
class Known:
    """The names of the training data, and the columns in which there may be no others.

    Attributes:
      strangers: those that were met all the same, by column.
    """

    names: Mapping[str, Sequence[str]]
    closed: Collection[str]
    strangers: dict[str, dict[str, None]] = field(default_factory=dict)

    def only(self, records: list[Record], counts: Counter[str]) -> list[Record]:
        """Those whose names are known, where they have to be; the others are counted."""
        for column in self.closed:
            if known := self.names.get(column):
                kept = [record for record in records if record.columns.get(column) in {None, *known}]
                counts[f"dropped_unknown_{column}"] += len(records) - len(kept)
                met = [record.columns[column] for record in records if record.columns.get(column) not in {None, *known}]
                self.strangers.setdefault(column, {}).update(dict.fromkeys(met))
                records = kept
        return records

    def lines(self) -> Iterator[str]:
        """Who they are, at most `SHOWN` of a column by name."""
        for column, strangers in self.strangers.items():
            if strangers:
                more = f" and {len(strangers) - SHOWN} more" if len(strangers) > SHOWN else ""
                named = ", ".join(list(strangers)[:SHOWN])
                yield f"warning: left out: rows of the {column}s {named}{more}, whom the training rows do not have"


def _only_declared(records: list[Record], declared: Mapping[str, Sequence[str]], bad: BadRows) -> list[Record]:
    """Those of the names that the method has parameters for; the others are bad rows."""
    kept = []
    for record in records:
        strange = [column for column in declared if record.columns.get(column) not in declared[column]]
        if not strange:
            kept.append(record)
            continue
        column, name = strange[0], record.columns.get(strange[0])
        known = declared[column]
        some = ", ".join(known[:5]) + (", ..." if len(known) > 5 else "")
        remedy = f"Name all of them in the setting of the loss, or remove the row.{did_you_mean(str(name), known)}"
        bad(record.row.error(f"{name!r} is not among the {len(known)} known: {some}.", field=column, remedy=remedy))
    return kept


def _only_needed(record: Record, needs: Needs) -> Record:
    """Leave out a gold response nobody asks for (it costs a forward pass); name a single text as the method does."""
    sides = record.sides
    if record.kind == "triple" and "gold" not in needs.roles:
        sides = tuple(side for side in sides if side.role != "gold")
    if record.kind in SINGLE and needs.roles in (("text",), ("completion",)):
        sides = (replace(sides[0], role=needs.roles[0]),) if sides[0].role != needs.roles[0] else sides
    return record if sides is record.sides else replace(record, sides=sides)
