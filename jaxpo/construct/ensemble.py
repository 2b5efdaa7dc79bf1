"""The scores of several reward stages, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxpo.config import Work
from jaxpo.config.places import OtherFile
from jaxpo.data.rows.formats import read_rows
from jaxpo.data.rows.json_lines import write_jsonl
from jaxpo.data.rows.rows import read_record

SCORED = "scored.jsonl"


@dataclass(frozen=True)
class Ensemble(Work):
    """Score pairs by several reward stages: writes `scored.jsonl`, with columns `scores_STAGE`: [chosen, rejected].

    Attributes:
      rows: pairs.
      stages: the reward stages, two at least.
      max_length: tokens of a prompt with its answer; longer ones lose their end.
    """

    name: str = "ensemble"
    rows: tuple[OtherFile, ...] = ()
    stages: tuple[str, ...] = ()
    max_length: int = 1024

    def outputs(self) -> tuple[str, ...]:
        return (SCORED,)

    def inputs(self) -> tuple[str, ...]:
        return self.rows

    def needed_models(self) -> tuple[str, ...]:
        return self.stages

    def problems(self) -> list[str]:
        found = [] if self.rows else ["rows names no file."]
        if len(set(self.stages)) < 2:
            found.append(f"stages names {len(set(self.stages))} reward stages; a strength is the mean of several.")
        return found

    def check_inputs(self, files: Sequence[Path]) -> None:
        for row in read_rows(files):
            read_record(row, "preference")

    def run(self, context: Any) -> dict[str, Any]:
        rows = list(read_rows(context.files(self.rows)))
        sides = [read_record(row, "preference").sides for row in rows]
        prompts = [pair[0].prompt if pair[0].prompt is not None else "" for pair in sides]
        made = [dict(row.data) for row in rows]
        for stage in self.stages:
            context.check()
            network = context.network(stage, self.max_length)
            both = [network.rewards(prompts, [pair[i].completion for pair in sides]).tolist() for i in (0, 1)]
            for row, chosen, rejected in zip(made, *both, strict=True):
                row[f"scores_{stage}"] = [chosen, rejected]
        write_jsonl(context.folder / SCORED, made)
        return {"rows": len(made), "models": len(self.stages)}
