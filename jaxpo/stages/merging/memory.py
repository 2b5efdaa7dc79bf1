"""What a search has measured, in a file that only grows, and the question that the answers belong to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxpo.data.rows.json_lines import whole_lines
from jaxpo.errors import RunError
from jaxpo.evaluate.intervals import Measurement
from jaxpo.evaluate.selection import Yardstick
from jaxpo.train.files import read_json, write_json

RECORDS, QUESTION = "results.jsonl", "question.json"
SELECT, REPORT = "select", "report"


@dataclass(frozen=True)
class Row:
    """One measured model.

    Attributes:
      label: of the candidate, or the name of a model that went in.
      kind: "merge" or "input".
      on: "select" or "report", the files.
      score: weighted sum of the metrics, more is better.
    """

    label: str
    kind: str
    on: str
    score: float
    measured: dict[str, Measurement]

    def record(self) -> dict[str, Any]:
        """For JSON."""
        metrics = {name: found.record() for name, found in self.measured.items()}
        return {"label": self.label, "kind": self.kind, "on": self.on, "score": self.score, "measured": metrics}


class Memory:
    """Rows by label and files.

    Args:
      folder: where they are kept.
      question: what they depend on; a folder with the answers to another one is refused.
      primary: whether this process writes.

    Raises:
      RunError: names what has changed since.
    """

    def __init__(self, folder: Path, question: dict[str, Any], primary: bool):
        self.folder, self.primary = folder, primary
        if primary:
            folder.mkdir(parents=True, exist_ok=True)
        before = read_json(folder / QUESTION)
        changed = [] if before is None else [name for name in question if question[name] != before.get(name)]
        if changed:
            raise RunError(
                f"{folder}: holds what was measured with other {', '.join(changed)}. Remove that folder, or choose "
                "another one for the result."
            )
        if before is None and primary:
            write_json(folder / QUESTION, question)
        self.rows = {(row.label, row.on): row for row in self._read()}

    def knows(self, label: str, on: str) -> bool:
        """Whether it has been measured already."""
        return (label, on) in self.rows

    def add(self, row: Row) -> None:
        """Remember a row, on disk before anything else happens."""
        self.rows[row.label, row.on] = row
        if self.primary:
            with (self.folder / RECORDS).open("a", encoding="utf-8") as out:
                out.write(json.dumps(row.record(), allow_nan=False) + "\n")

    def _read(self) -> Iterator[Row]:
        """The rows of an earlier start; one that a kill cut off is measured again."""
        for line in whole_lines(self.folder / RECORDS, repair=self.primary):
            record = json.loads(line)
            measured = {name: Measurement(**found) for name, found in record.pop("measured").items()}
            yield Row(measured=measured, **record)


def question_of_yardstick(on: str, yardstick: Yardstick) -> dict[str, Any]:
    """Metrics, and the files by content."""
    files = [file for names in yardstick.files.values() for file in names]
    return {
        f"{on} metrics": [list(metric) for metric in yardstick.metrics],
        f"{on} files": {file: hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files},
        "max_length": yardstick.max_length,
    }


def identity(path: Path) -> list[list[Any]]:
    """Names, sizes and times of a model's files: enough to notice that it was written again."""
    files = sorted(p for p in path.rglob("*") if p.is_file() and (p.suffix == ".safetensors" or p.name == "meta.json"))
    return [[str(p.relative_to(path)), p.stat().st_size, p.stat().st_mtime_ns] for p in files]
