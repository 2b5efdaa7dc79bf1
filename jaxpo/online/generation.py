"""A generation: groups of answers with their rewards, made or read from the ledger, never trained on before it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxpo.checkpoint.fingerprint import fingerprint
from jaxpo.online.answers import Answer, Group
from jaxpo.online.ledger import DONE, Journal
from jaxpo.online.prompts import Prompts
from jaxpo.online.scoring import Scoring
from jaxpo.online.writer import Asked, Writer
from jaxpo.sampling.sampler import Sampler

Tree = Any


@dataclass(frozen=True)
class Generation:
    """G groups of K answers.

    Attributes:
      number: of the generation.
      weights: fingerprint of those that wrote it.
      groups: by place.
      rewards: float64 `[G, K, F]`; NaN where a reward says nothing.
      failed: `[G, K]` rewards that failed.
      tried: prompts that were asked; more than G where some were replaced.
      seconds: "writing" and "rewards", where it was made now.
    """

    number: int
    weights: str
    groups: Sequence[Group]
    rewards: np.ndarray
    failed: np.ndarray
    tried: int
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Maker:
    """Makes generations, one after another.

    Attributes:
      size: groups of a generation.
      n: answers of a group.
      replaced: how often groups without spread are replaced.
      weights: of the rewards.
    """

    prompts: Prompts
    writer: Writer
    scoring: Scoring
    journal: Journal
    size: int
    n: int
    sampler: Sampler
    max_new_tokens: int
    replaced: int
    spread: Callable[[np.ndarray], np.ndarray]
    _ends: dict[int, int] = field(default_factory=dict)

    def make(self, number: int, params: Tree) -> Generation:
        """A generation by these weights: what of it is in the ledger is read, the rest is written."""
        weights, first = fingerprint(params), self._first(number)
        ledger = self.journal.begin(number, weights, first)
        records = ledger.read()
        if records and DONE in records[-1]:
            return self._read(number, weights, first, records)
        have = {record["position"]: self._group(record) for record in records}
        spent = {"writing": 0.0, "rewards": 0.0}
        groups: dict[int, Group] = {}
        rewards, failed = np.zeros((self.size, self.n, 0)), np.zeros((self.size, self.n))
        position, flat, ready = first, np.ones(self.size, bool), False
        for _ in range(1 + self.replaced):
            places = np.flatnonzero(flat).tolist()
            asked = [self._asked(place, position + i) for i, place in enumerate(places)]
            position += len(asked)
            missing = [one for one in asked if one.position not in have]
            began = time.monotonic()
            if missing and not ready:
                self.writer.use(params, self.size * self.n)
                ready = True
            what = f"generation {number}"
            for group in self.writer.write(missing, self.n, self.sampler, self.max_new_tokens, what) if missing else ():
                ledger.append([record_of(group)])
                have[group.position] = group
            spent["writing"] += time.monotonic() - began
            began = time.monotonic()
            new = [have[one.position] for one in asked]
            values, failures = self.scoring.score(
                new, lambda name, about: self.journal.rewards(number, weights, name, about)
            )
            spent["rewards"] += time.monotonic() - began
            if not groups:
                rewards = np.zeros((self.size, *values.shape[1:]))
            groups |= {group.place: group for group in new}
            rewards[places], failed[places] = values, failures
            flat = self.spread(rewards) <= 1e-8
            if not flat.any():
                break
        last = {
            DONE: True,
            "tried": position - first,
            "positions": [groups[place].position for place in range(self.size)],
            "rewards": _to_json(rewards),
            "failed": failed.astype(int).tolist(),
        }
        ledger.append([last])
        self._ends[number] = position
        kept = [groups[place] for place in range(self.size)]
        return Generation(number, weights, kept, rewards, failed, position - first, spent)

    def read(self, number: int) -> Generation:
        """A generation that weights of before wrote; DataError where its ledger is not whole."""
        ledger, records = self.journal.finished(number)
        return self._read(number, ledger.settings["weights"], ledger.settings["first"], records)

    def _read(self, number: int, weights: str, first: int, records: Sequence[Mapping[str, Any]]) -> Generation:
        last = records[-1]
        by_position = {record["position"]: record for record in records[:-1]}
        groups = [self._group(by_position[position]) for position in last["positions"]]
        self._ends[number] = first + last["tried"]
        rewards, failed = _from_json(last["rewards"]), np.asarray(last["failed"], float)
        return Generation(number, weights, groups, rewards, failed, last["tried"])

    def _first(self, number: int) -> int:
        """Position of a generation's first prompt: behind all that those before it asked."""
        if number == 0 or not self.replaced:
            return number * self.size
        if number - 1 not in self._ends:
            ledger, records = self.journal.finished(number - 1)
            self._ends[number - 1] = ledger.settings["first"] + records[-1]["tried"]
        return self._ends[number - 1]

    def _asked(self, place: int, position: int) -> Asked:
        return Asked(place, position, self.prompts.at(self.prompts.number(position)))

    def _group(self, record: Mapping[str, Any]) -> Group:
        answers = tuple(Answer.of(answer) for answer in record["answers"])
        return Group(record["place"], record["position"], self.prompts.at(record["prompt"]), answers)


def record_of(group: Group) -> dict[str, Any]:
    """A group as a line of the ledger."""
    answers = [answer.record() for answer in group.answers]
    text = group.prompt.text if isinstance(group.prompt.text, str) else group.prompt.text[-1]["content"]
    about = {"place": group.place, "position": group.position, "prompt": group.prompt.number, "text": text}
    return about | {"answers": answers}


def _to_json(values: np.ndarray) -> list[Any]:
    """Numbers as nested lists; None for NaN."""
    found = values.astype(object)
    found[np.isnan(values)] = None
    listed: list[Any] = found.tolist()
    return listed


def _from_json(values: list[Any]) -> np.ndarray:
    return np.asarray(values, dtype=object).astype(float)
