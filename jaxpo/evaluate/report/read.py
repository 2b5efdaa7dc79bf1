"""What a run directory holds, read into plain values."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxpo.errors import RunError
from jaxpo.evaluate.visual_questions import SHOWN
from jaxpo.train.alarms import ALERTS
from jaxpo.train.goodput import STARTS, starts_of, summary

Record = dict[str, Any]


@dataclass(frozen=True)
class RunData:
    """The contents of a run directory; absent files are empty.

    Attributes:
      metrics: stage -> its records in order, in the order in which the stages first appear.
      profiles: stage -> steps and costliest operations of the profile that was recorded of it.
      starts: what each start of the run did with its time, see `jaxpo.train.ledger`.
      alerts: oldest first.
      evaluations: folder -> the results.json that `jaxpo eval` left in it.
      shown: of each file of questions about images, what a stage said to them; grids of what it draws.
      finished: every stage has ended.
    """

    path: Path
    name: str
    config: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, list[Record]] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    samples: dict[str, list[Record]] = field(default_factory=dict)
    counts: dict[str, Record] = field(default_factory=dict)
    profiles: dict[str, Record] = field(default_factory=dict)
    starts: list[Record] = field(default_factory=list)
    alerts: list[Record] = field(default_factory=list)
    evaluations: dict[str, Record] = field(default_factory=dict)
    shown: list[Record] = field(default_factory=list)
    finished: bool = False

    @property
    def times(self) -> Record:
        """`ledger.summary` of the starts; empty where none was counted."""
        return summary(self.starts) if self.starts else {}

    @property
    def stages(self) -> list[dict[str, Any]]:
        """The configured stages, as JSON objects."""
        return [s for s in self.config.get("stages") or [] if isinstance(s, dict)]

    @property
    def probes(self) -> dict[str, dict[str, Any]]:
        """Stage -> probe -> number or {"value", "n", "low", "high"}."""
        return self.summary.get("probes") or {}


def read_run(path: Path) -> RunData:
    """Read a run directory.

    Raises:
      RunError: no such directory, no run in it, or a broken file (with its line).
    """
    if not path.is_dir():
        raise RunError(f"{path}: there is no such run directory.")
    config, metrics = path / "config.json", path / "metrics.jsonl"
    if not config.is_file() and not metrics.is_file():
        raise RunError(f"{path}: holds neither config.json nor metrics.jsonl, so it is not a run directory.")
    settings, summary = read_object(config), read_object(path / "summary.json")
    names = [s.get("name") for s in settings.get("stages") or [] if isinstance(s, dict)]
    ended = summary.get("seconds") or {}
    return RunData(
        path=path,
        name=path.resolve().name,
        config=settings,
        metrics=read_metrics(metrics),
        summary=summary,
        samples=read_object(path / "samples.json"),
        counts=read_object(path / "data_counts.json"),
        profiles=read_profiles(path),
        starts=read_starts(path / STARTS),
        alerts=read_lines(path / ALERTS),
        evaluations={file.parent.name: read_object(file) for file in sorted(path.glob("eval*/results.json"))},
        shown=[read_object(file) for file in sorted((path / SHOWN).glob("*.json"), key=_by_time)],
        finished=(path / "finished.json").is_file() or (bool(names) and all(name in ended for name in names)),
    )


def _by_time(file: Path) -> int:
    return file.stat().st_mtime_ns


def read_profiles(path: Path) -> dict[str, Record]:
    """Of each stage that has one; of several processes that of the first."""
    files = [*path.glob("stages/*/profile/operations.json"), *path.glob("stages/*/profile/process0/operations.json")]
    return {file.relative_to(path).parts[1]: read_object(file) for file in sorted(files)}


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; {} when the file is absent."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: is not valid JSON ({error}).") from error
    if not isinstance(value, dict):
        raise RunError(f"{path}: should hold a JSON object, holds a {type(value).__name__}.")
    return value


def read_starts(path: Path) -> list[Record]:
    """The starts of a run; none where they were not counted."""
    try:
        return starts_of(read_object(path)) if path.is_file() else []
    except ValueError as error:
        raise RunError(f"{path}: {error}") from error


def read_lines(path: Path) -> list[Record]:
    """Objects of a JSON-lines file, without a last line that is being written."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    found = []
    for n, line in enumerate(text[: text.rfind("\n") + 1].splitlines(), start=1):
        try:
            found.append(dict(json.loads(line)))
        except (TypeError, ValueError) as error:
            raise RunError(f"{path}, line {n}: is not a JSON object ({error}).") from error
    return found


def read_metrics(path: Path) -> dict[str, list[Record]]:
    """Records by stage. A last line without its end is a write in progress and is left out."""
    stages: dict[str, list[Record]] = {}
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    for number, line in enumerate(text[: text.rfind("\n") + 1].splitlines(), start=1):
        try:
            record = json.loads(line)
            stages.setdefault(str(record["stage"]), []).append({**record, "step": int(record["step"])})
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise RunError(
                f"{path}, line {number}: is not a metrics record with a stage and a step ({error})."
            ) from error
    return stages


def series(records: list[Record], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric, where it is present and finite."""
    points = [(r["step"], float(r[name])) for r in records if isinstance(r.get(name), (int, float))]
    return [s for s, _ in points], [v for _, v in points]


def seconds(records: list[Record]) -> float:
    """Wall time of a stage: its own total where it was logged, otherwise the sum of the logged steps."""
    _, total = series(records, "train_runtime")
    if total:
        return total[-1]
    _, steps = series(records, "step_time")
    _, compile_time = series(records, "compile_time")
    return sum(steps) + sum(compile_time)
