"""MODPO's margin rewards: what a first-stage model, or a rule, thinks of both responses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jaxpo.construct.base import Construction, Tools, not_positive
from jaxpo.construct.lcpo import read_pairs
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.rows import Record
from jaxpo.data.rows.texts import Text


@dataclass(frozen=True)
class MODPO(Construction):
    """Add one frozen reward to the column `rewards` of every pair.

    Attributes:
      name: of the reward, its key in `rewards`.
      source: "model": beta (log pi_k - log pi_ref) of --model, trained with DPO on objective k from --reference;
        "reward": the scores of a reward-stage model, --reward; "length": minus the length.
      beta: that the first-stage model was trained with.
      unit: of the length; tokens need --model for its tokenizer.
    """

    name: str = "margin"
    source: Literal["model", "reward", "length"] = "model"
    beta: float = 0.1
    unit: Literal["characters", "words", "tokens"] = "words"

    NAME = "modpo"
    READS = "pairs"
    WRITES = "the same rows with `rewards: {name: [chosen, rejected]}`"

    def problems(self) -> list[str]:
        return not_positive(beta=self.beta)

    def needed_networks(self) -> tuple[str, ...]:
        if self.source == "model":
            return ("model", "reference")
        if self.source == "reward":
            return ("reward",)
        return ("model",) if self.unit == "tokens" else ()

    def construct(self, rows: Sequence[Row], tools: Tools) -> Iterator[dict[str, Any]]:
        records = read_pairs(rows)
        table = np.stack([self.rewards(records, side, tools) for side in (0, 1)], axis=1)
        for record, row in zip(records, table.tolist(), strict=True):
            yield with_reward(record.row, self.name, row)

    def rewards(self, records: Sequence[Record], side: int, tools: Tools) -> np.ndarray:
        """Of one side of every pair, `[n]`."""
        prompts = [r.sides[side].prompt or "" for r in records]
        texts = [r.sides[side].completion for r in records]
        if self.source == "reward":
            return tools.rewards(prompts, texts)
        if self.source == "model":
            policy, reference = (tools.logps(prompts, texts, which) for which in ("model", "reference"))
            return implicit_reward(policy, reference, self.beta)
        if self.unit == "tokens":
            return -tools.token_counts(prompts, texts).astype(np.float64)
        return -np.asarray([length(text, self.unit) for text in texts], np.float64)


def implicit_reward(logps: np.ndarray, ref_logps: np.ndarray, beta: float) -> np.ndarray:
    """`beta (log pi_k - log pi_ref)` of sums over tokens, `[n]`."""
    return beta * (np.asarray(logps, np.float64) - np.asarray(ref_logps, np.float64))


def length(text: Text, unit: Literal["characters", "words"]) -> int:
    """Of a string, or of all messages together."""
    written = text if isinstance(text, str) else " ".join(str(m.get("content", "")) for m in text)
    return len(written) if unit == "characters" else len(written.split())


def with_reward(row: Row, name: str, values: list[float]) -> dict[str, Any]:
    """The row with one more reward; one of the same name is an error."""
    rewards = row.data.get("rewards", {})
    if not isinstance(rewards, dict):
        raise row.error("expected {name: [chosen, rejected]}.", field="rewards", remedy="Correct or remove the column.")
    if name in rewards:
        raise row.error(
            f"there is a reward {name!r} already.",
            field="rewards",
            remedy="Give another name with --name, or remove it.",
        )
    return {**row.data, "rewards": {**rewards, name: values}}
