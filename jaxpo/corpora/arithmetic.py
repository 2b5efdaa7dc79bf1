"""Small arithmetic word problems in the form of GSM8K: graded by digits, operations and number of steps.

A corpus that a model of a million parameters learns partly: the easy levels within a few hundred thousand tokens, the
hard ones not. Imports the standard library only.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jaxpo.corpora.files import reusable, write
from jaxpo.data.cleaning.heldout import is_held_out
from jaxpo.errors import ConfigError

FORMAT = 1
TRAIN, HELD_OUT, FEW = "arithmetic_train.jsonl", "arithmetic_heldout.jsonl", "arithmetic_few.jsonl"
# A level counts as exhausted after so many draws in a row that were no new item.
PATIENCE = 2000

NAMES = ("Ann", "Ben", "Eva", "Ida", "Jon", "Kim", "Leo", "Mia", "Max", "Sam", "Tom", "Zoe")
THINGS = ("apples", "books", "cards", "coins", "eggs", "nuts", "pens", "shells", "stamps", "toys")
OPENINGS = {"has": "{name} has {n} {things}.", "keeps": "{name} keeps {n} {things} in a box."}
GROUPS = {
    "bags": "{name} has {n} bags with {m} {things} in each.",
    "days": "For {n} days {name} buys {m} {things} a day.",
}
EVENTS = {
    "+": {
        "finds": "{name} finds {n} more.",
        "gets": "{friend} gives {name} {n} more.",
        "buys": "Then {name} buys {n} more.",
    },
    "-": {"loses": "{name} loses {n}.", "gives": "{name} gives {n} to {friend}.", "sells": "Then {name} sells {n}."},
}
QUESTION = "How many {things} does {name} have now?"


@dataclass(frozen=True)
class Item:
    """One word problem.

    Attributes:
      level: 1 (easiest) to 6, see `LEVELS`.
      template: the sentences it is told with, such as "has finds".
      numbers: the numbers of the text, in their order.
      prompt: the question.
      completion: one equation per step, then `#### ANSWER`.
      answer: the number as a string.
    """

    level: int
    template: str
    numbers: tuple[int, ...]
    prompt: str
    completion: str
    answer: str

    @property
    def problem(self) -> str:
        """What is held out as a whole: the story with its numbers, whoever it is about."""
        return f"{self.template} {' '.join(map(str, self.numbers))}"

    @property
    def id(self) -> str:
        """A name that depends on the question only."""
        return f"l{self.level}-{hashlib.sha256(self.prompt.encode()).hexdigest()[:12]}"

    def row(self) -> dict[str, Any]:
        """As a row of type prompt_completion, with `answer`, `level`, `template` and `id` beside it."""
        return {
            "prompt": [{"role": "user", "content": self.prompt}],
            "completion": [{"role": "assistant", "content": self.completion}],
            "answer": self.answer,
            "level": self.level,
            "template": self.template,
            "id": self.id,
        }


class _Draw:
    """Choices from a seed; `random.Random.random` is the one stream that Python promises never to change."""

    def __init__(self, seed: str):
        self._next = random.Random(seed).random

    def below(self, n: int) -> int:
        return int(self._next() * n)

    def between(self, low: int, high: int) -> int:
        return low + self.below(high - low + 1)

    def of(self, options: Any) -> Any:
        return list(options)[self.below(len(options))]


Step = tuple[str, int]
Start = tuple[int, ...]


def _small(draw: _Draw) -> tuple[Start, list[Step]]:
    whole = draw.between(2, 9)
    part = draw.between(1, whole - 1)
    return ((whole,), [("-", part)]) if draw.below(2) else ((whole - part,), [("+", part)])


def _across_ten(draw: _Draw) -> tuple[Start, list[Step]]:
    a = draw.between(2, 9)
    b = draw.between(10 - a, 9)
    return ((a + b,), [("-", b)]) if draw.below(2) else ((a,), [("+", b)])


def _table(draw: _Draw) -> tuple[Start, list[Step]]:
    return (draw.between(2, 9), draw.between(2, 9)), []


def _two_small(draw: _Draw) -> tuple[Start, list[Step]]:
    first = draw.between(4, 18)
    steps = [_change(draw, first, 2, 9)]
    return (first,), [*steps, _change(draw, _apply(first, steps[0]), 1, 9)]


def _two_digits(draw: _Draw) -> tuple[Start, list[Step]]:
    first = draw.between(21, 89)
    return (first,), [_change(draw, first, 11, 79)]


def _table_then_two_digits(draw: _Draw) -> tuple[Start, list[Step]]:
    groups = (draw.between(3, 9), draw.between(6, 12))
    return groups, [_change(draw, groups[0] * groups[1], 11, 59)]


def _change(draw: _Draw, now: int, low: int, high: int) -> Step:
    """Add or take away between `low` and `high`; never so much that less than one is left."""
    if draw.below(2) and now > low:
        return "-", draw.between(low, min(high, now - 1))
    return "+", draw.between(low, high)


def _apply(now: int, step: Step) -> int:
    return now + step[1] if step[0] == "+" else now - step[1]


LEVELS: dict[int, Callable[[_Draw], tuple[Start, list[Step]]]] = {
    1: _small,  # one step, one digit
    2: _across_ten,  # one step, across ten
    3: _table,  # one step, the multiplication table
    4: _two_small,  # two steps, small numbers
    5: _two_digits,  # one step, two digits
    6: _table_then_two_digits,  # two steps, a product and two digits
}


def make_item(level: int, draw: _Draw) -> Item:
    """Draw one problem of a level."""
    start, steps = LEVELS[level](draw)
    name = draw.of(NAMES)
    who = {"name": name, "friend": draw.of([n for n in NAMES if n != name]), "things": draw.of(THINGS)}
    told, sentences, lines = [], [], []
    key = draw.of(OPENINGS if len(start) == 1 else GROUPS)
    told.append(key)
    numbers = dict(zip("nm", start, strict=False))
    sentences.append((OPENINGS | GROUPS)[key].format(**who, **numbers))
    now = start[0]
    if len(start) == 2:
        now = start[0] * start[1]
        lines.append(f"{start[0]} * {start[1]} = {now}")
    for operation, n in steps:
        key = draw.of(EVENTS[operation])
        told.append(key)
        sentences.append(EVENTS[operation][key].format(**who, n=n))
        after = _apply(now, (operation, n))
        lines.append(f"{now} {operation} {n} = {after}")
        now = after
    return Item(
        level=level,
        template=" ".join(told),
        numbers=(*start, *(n for _, n in steps)),
        prompt=" ".join([*sentences, QUESTION.format(**who)]),
        completion="\n".join([*lines, f"#### {now}"]),
        answer=str(now),
    )


def items(level: int, n: int, *, seed: int, held_out: bool, one_in: int = 8) -> list[Item]:
    """n distinct items of one level, of the training or the held-out problems.

    Args:
      one_in: about one problem (story with its numbers) in so many is held out, by a hash of it.

    Raises:
      ConfigError: the level has fewer distinct items than asked for.
    """
    found: dict[str, Item] = {}
    draw = _Draw(f"arithmetic {FORMAT} {seed} {level} {held_out}")
    vain = 0
    while len(found) < n and vain < PATIENCE:
        item = make_item(level, draw)
        new = item.prompt not in found and is_held_out(item.problem, one_in) == held_out
        vain = 0 if new else vain + 1
        if new:
            found[item.prompt] = item
    if len(found) < n:
        part = "held-out" if held_out else "training"
        raise ConfigError(f"arithmetic level {level} has about {len(found)} distinct {part} items; ask for fewer.")
    return list(found.values())


@dataclass(frozen=True)
class Arithmetic:
    """The corpus: training and held-out word problems that share no problem (story with its numbers).

    Attributes:
      train, heldout: number of rows, spread evenly over the levels.
      levels: which of the levels 1 to 6.
      held_out_one_in: about one problem in this many is held out, by a hash of it.
      few: rows of `arithmetic_few.jsonl`, the first of the training rows, for stages that ask a problem several times;
        0 = no such file.
    """

    train: int = 12_000
    heldout: int = 1_200
    levels: tuple[int, ...] = (1, 2, 3, 4, 5, 6)
    seed: int = 0
    held_out_one_in: int = 8
    few: int = 0

    def build(self, directory: Path) -> dict[str, Any]:
        """Write `arithmetic_train.jsonl` and `arithmetic_heldout.jsonl`, unless they are there with these settings.

        Returns:
          {"hash", "counts" (rows per file), "inputs", "files", "reused", "lines" (for people)}.

        Raises:
          ConfigError: a level that does not exist, or more items than a level has.
        """
        self.check()
        inputs = hashlib.sha256(json.dumps({"format": FORMAT, **asdict(self)}).encode()).hexdigest()[:16]
        if (report := reusable(directory, inputs)) is not None:
            return {**report, "reused": True}
        files = {TRAIN: list(self._rows(self.train, False)), HELD_OUT: list(self._rows(self.heldout, True))}
        files |= {FEW: files[TRAIN][: self.few]} if self.few else {}
        counts = {name.removesuffix(".jsonl"): len(rows) for name, rows in files.items()}
        lines = [
            f"arithmetic: {self.train:,} word problems to train on, {self.heldout:,} held out, of {len(self.levels)} "
            "levels; no story with the same numbers is in both"
        ]
        return {**write(directory, files, {"counts": counts, "lines": lines, "inputs": inputs}), "reused": False}

    def _rows(self, n: int, held_out: bool) -> Iterator[dict[str, Any]]:
        """In the order of a hash, so that any part of the file has all levels."""
        shares = [n // len(self.levels) + (i < n % len(self.levels)) for i in range(len(self.levels))]
        found = [
            item
            for level, share in zip(self.levels, shares, strict=True)
            for item in items(level, share, seed=self.seed, held_out=held_out, one_in=self.held_out_one_in)
        ]
        return (item.row() for item in sorted(found, key=lambda item: item.id.partition("-")[2]))

    def check(self) -> None:
        """ConfigError: a level that does not exist, or numbers of rows that make no corpus."""
        problems = []
        if not self.levels or len(set(self.levels)) < len(self.levels) or set(self.levels) - set(LEVELS):
            problems.append(f"corpus.levels={self.levels} must be different ones of {tuple(LEVELS)}.")
        if min(self.train, self.heldout) < 1:
            problems.append(f"corpus.train={self.train} and corpus.heldout={self.heldout} must be at least 1.")
        if not 0 <= self.few <= self.train:
            problems.append(f"corpus.few={self.few} must lie in 0..corpus.train ({self.train}).")
        if self.held_out_one_in < 2:
            problems.append(f"corpus.held_out_one_in={self.held_out_one_in} must be at least 2.")
        if problems:
            raise ConfigError(problems)
