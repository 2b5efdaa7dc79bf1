"""A generation: groups of answers with their rewards, made or read from the ledger, never trained on before it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxpo.checkpoint.fingerprint import fingerprint
from jaxpo.judges.base import Earlier
from jaxpo.judges.ledger import Ledger
from jaxpo.online.advantages import FLAT
from jaxpo.online.answers import Answer, Group
from jaxpo.online.ledger import DONE, Journal
from jaxpo.online.prompts import Prompts
from jaxpo.online.rewards.win_rate import Opponents
from jaxpo.online.scoring import Scoring, key_of, response
from jaxpo.online.writer import Asked
from jaxpo.online.writers import Writes
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
      figures: what its rewards are worth knowing of besides their values.
    """

    number: int
    weights: str
    groups: Sequence[Group]
    rewards: np.ndarray
    failed: np.ndarray
    tried: int
    seconds: Mapping[str, float] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass
class _Work:
    """A generation under way.

    Attributes:
      have: by position, the groups that the ledger holds.
      use: has the writer take the weights; called before the first answer is written.
      groups: by place, those that are kept so far.
      rounds: figures of the rewards, each time that some were given.
    """

    number: int
    weights: str
    ledger: Ledger
    have: dict[int, Group]
    use: Callable[[], None]
    groups: dict[int, Group] = field(default_factory=dict)
    rewards: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0)))
    failed: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    spent: dict[str, float] = field(default_factory=lambda: {"writing": 0.0, "rewards": 0.0})
    rounds: list[Mapping[str, float]] = field(default_factory=list)
    _used: bool = False

    @property
    def figures(self) -> dict[str, float]:
        """The mean over the rounds of answers that were scored."""
        names = dict.fromkeys(name for one in self.rounds for name in one)
        return {name: float(np.mean([one[name] for one in self.rounds if name in one])) for name in names}

    def ready(self) -> None:
        """Give the writer the weights, once."""
        if not self._used:
            self.use()
            self._used = True

    def put(
        self, places: list[int], groups: Sequence[Group], values: np.ndarray, failed: np.ndarray, size: int
    ) -> None:
        """Groups in the places of those that they replace, with their rewards."""
        if not self.groups:
            self.rewards, self.failed = np.zeros((size, *values.shape[1:])), np.zeros((size, *failed.shape[1:]))
        self.groups |= {group.place: group for group in groups}
        self.rewards[places], self.failed[places] = values, failed

    def last(self, tried: int) -> dict[str, Any]:
        """The line that says that a generation is whole."""
        positions = [self.groups[place].position for place in range(len(self.rewards))]
        rewards, failed = _to_json(self.rewards), self.failed.astype(int).tolist()
        said = {"figures": self.figures} if self.figures else {}
        return {DONE: True, "tried": tried, "positions": positions, "rewards": rewards, "failed": failed, **said}


@dataclass
class Maker:
    """Makes generations, one after another.

    Attributes:
      size: groups of a generation.
      n: answers of a group.
      replaced: how often groups without spread are replaced.
      spread: rewards of groups -> their deviations.
      at_once: answers that one writer is asked for.
      show: says on the progress bar how far it is.
    """

    prompts: Prompts
    writer: Writes
    scoring: Scoring
    journal: Journal
    size: int
    n: int
    sampler: Sampler
    max_new_tokens: int
    replaced: int
    spread: Callable[[np.ndarray], np.ndarray]
    at_once: int
    show: Callable[[str], None]
    _ends: dict[int, int] = field(default_factory=dict)
    _queue: Opponents = field(default_factory=lambda: Opponents(0))
    _queued: int = 0

    def make(self, number: int, params: Tree) -> Generation:
        """A generation by these weights: what of it is in the ledger is read, the rest is written."""
        weights, first = fingerprint(params), self._first(number)
        ledger = self.journal.begin(number, weights, first)
        records = ledger.read()
        if records and DONE in records[-1]:
            return self._read(number, weights, first, records)
        have = {record["position"]: self._group(record) for record in records}
        work = _Work(number, weights, ledger, have, lambda: self.writer.use(params, self.at_once))
        position, flat = first, np.ones(self.size, bool)
        for _ in range(1 + self.replaced):
            places = np.flatnonzero(flat).tolist()
            asked = [self._asked(place, position + i) for i, place in enumerate(places)]
            position += len(asked)
            new = self._written(work, asked)
            work.put(places, new, *self._scored(work, new), self.size)
            flat = self.spread(work.rewards) <= FLAT
            if not flat.any():
                break
        work.ledger.append([work.last(position - first)])
        self._ends[number] = position
        kept = [work.groups[place] for place in range(self.size)]
        tried = position - first
        return Generation(number, weights, kept, work.rewards, work.failed, tried, work.spent, work.figures)

    def _written(self, work: _Work, asked: Sequence[Asked]) -> list[Group]:
        """The groups that are asked for: those of the ledger, and new ones, which go there as they end."""
        began = time.monotonic()
        missing = [one for one in asked if one.position not in work.have]
        if missing:
            work.ready()
            what = f"generation {work.number}"
            self.show(f"{what}, writing 0/{len(missing)}")
            groups = self.writer.write(missing, self.n, self.sampler, self.max_new_tokens, what)
            for done, group in enumerate(groups, start=1):
                work.ledger.append([record_of(group)])
                work.have[group.position] = group
                self.show(f"{what}, writing {done}/{len(missing)}")
        work.spent["writing"] += time.monotonic() - began
        return [work.have[one.position] for one in asked]

    def _scored(self, work: _Work, groups: Sequence[Group]) -> tuple[np.ndarray, np.ndarray]:
        """Their rewards, and how many failed."""
        began = time.monotonic()
        self.show(f"generation {work.number}, rewards")
        found = self.scoring.score(
            groups,
            lambda name, about: self.journal.rewards(work.number, work.weights, name, about),
            earlier=self._earlier(work.number),
        )
        work.rounds.append(dict(self.scoring.figures))
        work.spent["rewards"] += time.monotonic() - began
        return found

    def _earlier(self, number: int) -> Earlier:
        """The newest answers to every prompt of the generations before this one, as the ledger holds them."""
        size = self.scoring.remembers
        if not size:
            return {}
        if self._queue.size != size or self._queued > number:
            self._queue, self._queued = Opponents(size), 0
        for before in range(self._queued, number):
            for group in self.read(before).groups:
                for k in range(len(group.answers)):
                    self._queue.push(key_of(group, k), response(group, k))
        self._queued = number
        return self._queue.queues

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
        figures = last.get("figures", {})
        return Generation(number, weights, groups, rewards, failed, last["tried"], figures=figures)

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
