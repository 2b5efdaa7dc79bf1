"""The online stages of a run, and what it logged of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxpo.config import Online, Run
from jaxpo.config.serialise import load
from jaxpo.data.rows.formats import read_rows
from jaxpo.stages.run_inputs import resolve_files
from jaxpo.train.metrics import read_metrics


@dataclass(frozen=True)
class OnlineRun:
    """One online stage of a run.

    Attributes:
      folder: of the stage.
      first: folder of the model that it began with.
      chat: its prompts are messages.
      cycle: steps that a generation serves.
      records: its logged steps, in order.
    """

    name: str
    folder: Path
    first: Path
    chat: bool
    cycle: int
    records: list[dict[str, Any]]

    def curve(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of a metric."""
        known = [(r["step"], r[name]) for r in self.records if name in r]
        return [step for step, _ in known], [value for _, value in known]


def online_stages(folder: Path) -> list[OnlineRun]:
    """Those of a run directory that have trained."""
    run: Run = load(folder / "config.json", trust_files=True)
    lines, found = read_metrics(folder / "metrics.jsonl"), []
    for i, stage in enumerate(run.stages):
        records = [r for r in lines if r["stage"] == stage.name and "reward" in r]
        if isinstance(stage, Online) and records:
            before = run.stages[i - 1].name if stage.init_from == "previous" else stage.init_from
            row = next(iter(read_rows([Path(name) for name in resolve_files(stage.data.train, folder)])))
            chat, stages = not isinstance(row.data.get("prompt"), str), folder / "stages"
            where = (stages / stage.name, stages / before)
            found.append(OnlineRun(stage.name, *where, chat, stage.steps_per_cycle, records))
    return found
