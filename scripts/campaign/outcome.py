"""What a run has come to, on which no fault may have a say; and how far one was when it was disturbed."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from campaign.recipe import STAGES
from jaxpo.checkpoint.integrity import read_document
from jaxpo.train.metrics import TIMING

BEGAN = re.compile(r"(?:resuming at step (\d+) of|starting) stage (\w+)")


@dataclass(frozen=True)
class Outcome:
    """Metrics without timings, fingerprints of every stage's model and last checkpoint, and the export's hash.

    The loss of a step is bitwise that of its examples: equal metrics are equal examples in equal order.
    """

    metrics: tuple[dict[str, Any], ...]
    fingerprints: dict[str, Any]
    export: str


def outcome(run: Path) -> Outcome:
    """Of a finished run. DamagedError, or OSError, where something is missing or not as it was written."""
    kept = {}
    for stage in STAGES:
        for name in ("model", "checkpoints"):
            newest = max(p for p in (run / "stages" / stage / name).iterdir() if p.name.isdigit())
            kept[f"{stage}/{name}"] = read_document(newest, int(newest.name))["fingerprints"]
    return Outcome(tuple(metrics(run)), kept, hash_of(run / "export" / "model.safetensors"))


def differences(found: Outcome, expected: Outcome) -> list[str]:
    """What differs, in words."""
    wrong = [f"{name} has other values" for name, f in expected.fingerprints.items() if found.fingerprints[name] != f]
    if found.metrics != expected.metrics:
        wrong.append("the metrics differ")
    if found.export != expected.export:
        wrong.append("the export differs")
    return wrong


def far_from(found: Outcome, expected: Outcome, tolerance: float = 1e-3) -> list[str]:
    """What differs by more than rounding, as between one process and two: steps, tokens and losses."""
    pairs = [[(r["stage"], r["step"], r["num_tokens"]) for r in o.metrics] for o in (found, expected)]
    losses = [[r["loss"] for r in o.metrics if "loss" in r] for o in (found, expected)]
    if pairs[0] != pairs[1] or len(losses[0]) != len(losses[1]):
        return ["other steps, or other tokens in them"]
    close = all(math.isclose(a, b, rel_tol=tolerance) for a, b in zip(*losses, strict=True))
    return [] if close else [f"the losses differ by more than {tolerance:g}"]


def metrics(run: Path) -> list[dict[str, Any]]:
    """Whole lines of metrics.jsonl, without what measures the machine; [] where there are none."""
    file = run / "metrics.jsonl"
    if not file.is_file():
        return []
    whole = [line for line in file.read_bytes().split(b"\n")[:-1] if line.strip(b"\0")]
    return [{k: v for k, v in json.loads(line).items() if k not in TIMING} for line in whole]


def hash_of(file: Path) -> str:
    """SHA-256 of a file's content."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


@dataclass(frozen=True)
class Position:
    """How far a run is, by its files: of each stage the newest checkpoint, and the newest step in the metrics."""

    committed: dict[str, int] = field(default_factory=dict)
    logged: dict[str, int] = field(default_factory=dict)
    finished: frozenset[str] = frozenset()


def position(run: Path) -> Position:
    """Of a run that is not running."""
    steps, done = {}, set()
    for stage in STAGES:
        folder = run / "stages" / stage
        found = [int(p.name) for p in folder.glob("checkpoints/*") if p.name.isdigit()]
        steps[stage] = max(found, default=0)
        done |= {stage} if (folder / "model").is_dir() and any((folder / "model").glob("0*[0-9]")) else set()
    lines = metrics(run)
    logged = {stage: max((r["step"] for r in lines if r["stage"] == stage), default=0) for stage in STAGES}
    return Position(steps, logged, frozenset(done))


def steps_lost(before: Position, text: str, *, whole: bool = True) -> tuple[int, list[str]]:
    """`(steps taken again, what is wrong)` of a restart: each stage goes on from its newest checkpoint.

    Args:
      before: as it was when the run was disturbed; its `committed` are the checkpoints that are intact.
      text: what the restarted run said.
      whole: it came to its end, so that it began every stage that was not finished.
    """
    began = {stage: int(step or 0) for step, stage in BEGAN.findall(text)}
    lost, wrong = 0, []
    for stage in STAGES:
        committed = before.committed.get(stage, 0)
        if stage in began:
            if began[stage] != committed:
                wrong.append(f"{stage} went on from step {began[stage]}, and {committed} was committed")
            lost += max(0, before.logged.get(stage, 0) - began[stage])
        elif whole and stage not in before.finished:
            wrong.append(f"{stage} did not begin again")
    return lost, wrong
