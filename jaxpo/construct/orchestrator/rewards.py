"""What the orchestrator learns from: K rewards of every preferred response."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxpo.construct.base import Construction, Tools
from jaxpo.construct.rationales import plain
from jaxpo.construct.rps.attributes import AttributeOptions
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.rows import canonical, detect, read_record
from jaxpo.data.rows.texts import Text

PREFERRED = ("preference", "triple", "prompt_completion", "rated", "unpaired")


@dataclass(frozen=True)
class PROOrchestrator(AttributeOptions, Construction):
    """Score the preferred response of every row by K rewards, for a stage with the loss pro_orchestrator.

    Attributes:
      attributes: names of the rewards; () = those of the heads of --reward.
      judges: a judge for each of them; () = the heads of --reward.
    """

    NAME = "pro_orchestrator"
    READS = "pairs; or prompt and completion"
    WRITES = "prompt, ratings: {name: number}, those of the preferred response"

    def problems(self) -> list[str]:
        return self.attribute_problems()

    def needed_networks(self) -> tuple[str, ...]:
        return self.attribute_networks()

    def construct(self, rows: Sequence[Row], tools: Tools) -> Iterator[dict[str, Any]]:
        rows = [canonical(row) for row in rows]
        found = [preferred(row) for row in rows]
        names, values = self.measure(rows, [p for p, _ in found], [plain(text) for _, text in found], tools)
        for (prompt, _), rewards in zip(found, values, strict=True):
            if np.isnan(rewards).any():
                tools.count("rows_left_out_without_all_rewards")
                continue
            yield {"prompt": prompt, "ratings": dict(zip(names, rewards.tolist(), strict=True))}


def preferred(row: Row) -> tuple[Text, Text]:
    """A row's prompt and its preferred response."""
    kind = detect(row)
    if kind not in PREFERRED or (kind == "rated" and "completion" not in row.data):
        raise row.error(f"type {kind!r} has no preferred response.", remedy="Give pairs, or prompt and completion.")
    side = read_record(row, kind).sides[0]
    if side.prompt is None:
        raise row.error("there is no prompt.", field="prompt", remedy="Give one; weights are said of prompts.")
    return side.prompt, side.completion
