"""What `jaxpo eval` found of one model on one task, and the file that holds it. Imports no jax."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxpo.evaluate.grid import Grid
from jaxpo.evaluate.intervals import Measurement
from jaxpo.evaluate.picture import Picture
from jaxpo.evaluate.tasks.base import Scored, measure
from jaxpo.evaluate.tasks.reading import Score

FORMAT = 1
"""Of results.json."""


@dataclass(frozen=True)
class TaskResult:
    """One model on one task.

    Attributes:
      label: the task as it was asked for, `NAME[:SOURCE]`.
      settings: of the task.
      prompt_hash: of its prompts' wording and, where they are put into it, of the chat template.
      scored: its examples, in order.
      scores: how their values are read.
      seconds: that asking and scoring took.
      grid: results over two axes, where the task has such.
      pictures: what the report draws of its examples.
      further: results that are no ratio over `scored` (lm-eval's aggregations, fits).
      notes: what a reader of the results must know.
      files: further files of the evaluation, name -> text.
    """

    label: str
    settings: Mapping[str, Any]
    prompt_hash: str
    scored: Sequence[Scored]
    scores: Mapping[str, Score]
    seconds: float
    further: Mapping[str, Measurement] = field(default_factory=dict)
    grid: Grid | None = None
    pictures: Sequence[Picture] = ()
    notes: Sequence[str] = ()
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def results(self) -> dict[str, Measurement]:
        """Name -> value with n and interval."""
        return {**measure(self.scored, self.scores), **self.further}

    def record(self) -> dict[str, Any]:
        """For results.json."""
        return {
            "settings": dict(self.settings),
            "prompt_hash": self.prompt_hash,
            "examples": len(self.scored),
            "seconds": round(self.seconds, 3),
            "results": {name: found.record() for name, found in self.results.items()},
            **({"notes": list(self.notes)} if self.notes else {}),
        }


def prompt_hash(*parts: str) -> str:
    """16 hexadecimal digits of the sha256 of what prompts are made with."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def worst(scored: Sequence[Scored], scores: Mapping[str, Score], count: int) -> list[int]:
    """The examples that went worst, worst first: by `Scored.worst`, else by the first score."""
    first = next(iter(scores.items()), None)

    def badness(one: Scored) -> float:
        if one.worst is not None:
            return one.worst
        if first is None or first[0] not in one.values:
            return float("-inf")
        value = one.values[first[0]] / one.weights.get(first[0], 1.0)
        return -value if first[1].higher else value

    return sorted(range(len(scored)), key=lambda i: -badness(scored[i]))[:count]
