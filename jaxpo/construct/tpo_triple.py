"""Triples of the best, a middle and the worst response, from scored lists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxpo.construct.base import Construction, Tools
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.rows import detect, read_record


@dataclass(frozen=True)
class TPOTriple(Construction):
    """gold = the best response, chosen = the second best, rejected = the worst.

    Lists in which chosen and rejected have the same score or text are left out and counted; so are empty responses.

    Attributes:
      chosen_rank: which response is the chosen one, 2 = second best. Never the worst: of two responses the best is
        gold and chosen both.
    """

    chosen_rank: int = 2

    NAME = "tpo_triple"
    READS = "lists: prompt, responses, scores"
    WRITES = "prompt, chosen, rejected, gold"

    def problems(self) -> list[str]:
        return [f"--chosen-rank is {self.chosen_rank} but must be at least 1."] if self.chosen_rank < 1 else []

    def construct(self, rows: Sequence[Row], tools: Tools) -> Iterator[dict[str, Any]]:
        for row in rows:
            if detect(row) != "list":
                raise row.error("holds no scored list.", remedy="Give rows with prompt, responses and scores.")
            read_record(row, "list", extras=("scores",))
            kept = [(r, s) for r, s in zip(row.data["responses"], row.data["scores"], strict=True) if r]
            if len(kept) < len(row.data["responses"]):
                tools.count("empty_responses_ignored", len(row.data["responses"]) - len(kept))
            if len(kept) < 2:
                tools.count("dropped_fewer_than_two_responses")
                continue
            responses, scores = zip(*kept, strict=True)
            gold, chosen, rejected = triple(scores, self.chosen_rank)
            if scores[chosen] == scores[rejected]:
                tools.count("dropped_tie")
            elif responses[chosen] == responses[rejected]:
                tools.count("dropped_same_text")
            else:
                rest = {k: v for k, v in row.data.items() if k not in ("responses", "scores")}
                names = {"chosen": chosen, "rejected": rejected, "gold": gold}
                yield rest | {name: responses[i] for name, i in names.items()}


def triple(scores: Sequence[float], chosen_rank: int = 2) -> tuple[int, int, int]:
    """Indices of gold (highest score), chosen (that rank, but above the last) and rejected (lowest), for K >= 2.

    Equal scores keep the order of the list: of the best ones the first is gold, of the worst ones the last is rejected.
    """
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    middle = min(chosen_rank, len(order) - 1) - 1
    return int(order[0]), int(order[middle]), int(order[-1])
