"""DOVE's joint pairs: items of instruction and response, compared with items of other instructions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxpo.construct.base import Construction, Tools
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.rows import PAIRS, detect, read_record
from jaxpo.data.rows.texts import Text


@dataclass(frozen=True)
class Item:
    """An instruction with one response, and what it is worth."""

    prompt: Text
    response: Text
    score: float


@dataclass(frozen=True)
class DOVE(Construction):
    """Random pairs of items of different instructions, each item used at most once; ties are left out and counted.

    Attributes:
      items_per_prompt: how many responses of a scored list enter the joint pairs, drawn at random.
      min_gap: scores that differ by no more are a tie.
      conditional: also write comparisons under one instruction: the pairs of the input, and the best against the worst
        response of each list.
    """

    items_per_prompt: int = 1
    min_gap: float = 0.0
    conditional: bool = True

    NAME = "dove"
    READS = "lists (prompt, responses, scores), single responses (prompt, completion, score; or --reward), pairs"
    WRITES = "prompt_chosen, chosen, prompt_rejected, rejected"

    def problems(self) -> list[str]:
        found = []
        if self.items_per_prompt < 1:
            found.append(f"--items-per-prompt is {self.items_per_prompt} but must be at least 1.")
        if not self.min_gap >= 0:
            found.append(f"--min-gap is {self.min_gap} but must not be negative.")
        return found

    def construct(self, rows: Sequence[Row], tools: Tools) -> Iterator[dict[str, Any]]:
        rng = np.random.default_rng(tools.seed)
        of = list(zip(rows, kinds(rows), strict=True))
        items = single_items([row for row, kind in of if kind == "prompt_completion"], tools)
        for row, kind in of:
            if kind in PAIRS:
                yield from self._kept(row, kind, tools)
            elif kind == "list":
                found = list_items(row)
                drawn = rng.permutation(len(found))[: self.items_per_prompt]
                items += [found[i] for i in sorted(drawn)]
                yield from self._best_and_worst(found, tools)
        for better, worse in self.joint(items, rng, tools):
            tools.count("joint_pairs")
            yield two_prompts(better, worse)

    def joint(self, items: Sequence[Item], rng: np.random.Generator, tools: Tools) -> Iterator[tuple[Item, Item]]:
        """The items in random pairs, the better one first."""
        for i, j in random_pairs(len(items), rng):
            a, b = items[i], items[j]
            if abs(a.score - b.score) <= self.min_gap:
                tools.count("dropped_tie")
            else:
                yield (a, b) if a.score > b.score else (b, a)

    def _kept(self, row: Row, kind: str, tools: Tools) -> Iterator[dict[str, Any]]:
        record = read_record(row, kind)
        if self.conditional:
            tools.count("conditional_pairs")
            yield two_prompts(*(Item(s.prompt or "", s.completion, 0.0) for s in record.sides[:2]))

    def _best_and_worst(self, found: Sequence[Item], tools: Tools) -> Iterator[dict[str, Any]]:
        if not self.conditional or not found:
            return
        best, worst = max(found, key=lambda x: x.score), min(found, key=lambda x: x.score)
        if best.score - worst.score <= self.min_gap or best.response == worst.response:
            tools.count("dropped_conditional_tie")
        else:
            tools.count("conditional_pairs")
            yield two_prompts(best, worst)


def random_pairs(n: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """n items in random pairs without replacement; of an odd number one stays alone."""
    order = rng.permutation(n)
    return [(int(i), int(j)) for i, j in zip(order[0 : n - 1 : 2], order[1:n:2], strict=True)]


def kinds(rows: Sequence[Row]) -> list[str]:
    """The type of each row; others than lists, single responses and pairs are errors."""
    found = [detect(row) for row in rows]
    for row, kind in zip(rows, found, strict=True):
        if kind not in (*PAIRS, "list", "prompt_completion"):
            raise row.error(f"type {kind!r} holds no item to compare.", remedy=f"DOVE reads {DOVE.READS}.")
    return found


def list_items(row: Row) -> list[Item]:
    """The non-empty responses of a scored list."""
    record = read_record(row, "list", extras=("scores",))
    scored = zip(record.sides, record.columns["scores"], strict=True)
    return [Item(side.prompt or "", side.completion, score) for side, score in scored if side.completion]


def single_items(rows: Sequence[Row], tools: Tools) -> list[Item]:
    """Single responses with their column `score`; those without one are scored by the reward model, if there is one."""
    sides = [read_record(row, "prompt_completion").sides[0] for row in rows]
    bare = [i for i, row in enumerate(rows) if "score" not in row.data] if tools.has("reward") else []
    scores = dict(enumerate(row.data.get("score") for row in rows))
    if bare:
        rewards = tools.rewards([sides[i].prompt or "" for i in bare], [sides[i].completion for i in bare])
        scores |= dict(zip(bare, rewards.tolist(), strict=True))
    return [Item(side.prompt or "", side.completion, finite(rows[i], scores[i])) for i, side in enumerate(sides)]


def finite(row: Row, score: Any) -> float:
    """The score of a row, checked."""
    if isinstance(score, bool) or not isinstance(score, int | float) or not np.isfinite(score):
        message = f"expected a finite number, found {score!r}."
        raise row.error(message, field="score", remedy="Add a column `score`, or give --reward.")
    return float(score)


def two_prompts(better: Item, worse: Item) -> dict[str, Any]:
    """A row of the two-prompt type."""
    return {
        "prompt_chosen": better.prompt,
        "chosen": better.response,
        "prompt_rejected": worse.prompt,
        "rejected": worse.response,
    }
