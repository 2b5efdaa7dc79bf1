"""Arithmetic word problems solved twice: in Mentalese, and at length in prose. Imports the standard library only."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jaxpo.corpora.arithmetic import QUESTION, Arithmetic, Item, items
from jaxpo.corpora.files import reusable, write
from jaxpo.corpora.mentalese import MARK, Step
from jaxpo.errors import ConfigError

FORMAT = 1
STYLES = ("mentalese", "verbose")
"""Names of the files: `mentalese_train.jsonl`, `verbose_heldout.jsonl`, ..."""
_ASKED = re.compile(re.escape(QUESTION).replace(r"\{things\}", r"(\w+)").replace(r"\{name\}", r"(\w+)"))
_WORDS = {
    "+": "{b} {things} come to the {a} that are there. So we have to add {b} to {a}. When we add {b} to {a} we get {c}",
    "-": "{b} {things} of the {a} go away. So we have to take {b} away from {a}. When we take {b} from {a} we have {c}",
    "*": "there are {a} times {b} {things}. So we have to multiply {a} by {b}. When we multiply {a} by {b} we get {c}",
}
_INVERSE = {"+": "-", "-": "+"}


@dataclass(frozen=True)
class Problem:
    """A question with its solution.

    Attributes:
      level: as of `jaxpo.corpora.arithmetic`.
      prompt: the question.
      steps: (a, operation, b, result) of every calculation.
      things: what is counted.
      unknown: the question is after the number that the story begins with: `x operation b = result`.
    """

    level: int
    prompt: str
    steps: tuple[tuple[int, str, int, int], ...]
    things: str
    unknown: bool = False

    @property
    def answer(self) -> int:
        """The number that is asked for."""
        a, _, _, result = self.steps[-1]
        return a if self.unknown else result

    @property
    def mentalese(self) -> str:
        """The trace: an equation and its solution, or the calculations alone, each of which names its result."""
        if self.unknown:
            a, operation, b, result = self.steps[0]
            trace = [Step("EQ", f"x{operation}{b}", "=", str(result)), Step("SOLVE", "x", "=", str(a))]
        else:
            trace = [Step("CALC", f"{a}{operation}{b}", "=", str(c)) for a, operation, b, c in self.steps]
        return ";".join(map(str, trace)) + f"\n{MARK} {self.answer}"

    @property
    def verbose(self) -> str:
        """The same in prose, with every thought written out and checked."""
        said = ["Let us think about this step by step."]
        if self.unknown:
            a, operation, b, c = self.steps[0]
            said.append(
                f"We do not know how many {self.things} there are at first. In the end there are {c} {self.things}. "
                "So we go back from the end."
            )
            said.append(self._told(c, _INVERSE[operation], b, a, "Going back"))
        else:
            for number, (a, operation, b, c) in enumerate(self.steps):
                said.append(self._told(a, operation, b, c, "Then" if number else "At first"))
        said.append(f"Therefore the answer to the question is {self.answer}.")
        return " ".join(said) + f"\n{MARK} {self.answer}"

    def _told(self, a: int, operation: str, b: int, c: int, when: str) -> str:
        what = _WORDS[operation].format(a=a, b=b, c=c, things=self.things)
        return f"{when} {what}, and now there are {c} {self.things}. Let us check this: {a} {operation} {b} = {c}."

    def row(self, style: str) -> dict[str, Any]:
        """As a row of type prompt_completion, with `answer`, `level` and `id` beside it."""
        name = hashlib.sha256(self.prompt.encode()).hexdigest()[:12]
        return {
            "prompt": [{"role": "user", "content": self.prompt}],
            "completion": [{"role": "assistant", "content": getattr(self, style)}],
            "answer": str(self.answer),
            "level": self.level,
            "id": f"m{self.level}-{name}",
        }


def problem_of(item: Item, *, unknown: bool = False) -> Problem:
    """A word problem with its solution, or, of one with a single step on one start, the question after that start."""
    steps = []
    for line in item.completion.splitlines()[:-1]:
        a, operation, b, _, result = line.split()
        steps.append((int(a), operation, int(b), int(result)))
    asked = _ASKED.search(item.prompt)
    assert asked is not None, "every problem ends with the question"
    things, name = asked.groups()
    prompt = item.prompt
    if unknown:
        story = prompt[: asked.start()].replace(f" {steps[0][0]} ", " some ", 1)
        end = steps[0][3]
        prompt = f"{story}Now {name} has {end} {things}. How many {things} did {name} have at first?"
    return Problem(item.level, prompt, tuple(steps), things, unknown)


def may_be_unknown(item: Item) -> bool:
    """One step that starts from a number, not from groups, so that the story can begin with "some"."""
    return item.completion.count("\n") == 1 and " * " not in item.completion


@dataclass(frozen=True)
class MentaleseArithmetic:
    """The corpus: the same training and held-out problems in Mentalese and at length.

    Attributes:
      train, heldout: number of problems, spread evenly over the levels.
      levels: of `jaxpo.corpora.arithmetic`.
      unknown_one_in: of the problems with one step, about one in so many asks for what the story begins with; 0 = none.
      held_out_one_in: about one story with its numbers in this many is held out, by a hash of it.
    """

    train: int = 12_000
    heldout: int = 1_200
    levels: tuple[int, ...] = (1, 2, 3, 4)
    seed: int = 0
    unknown_one_in: int = 3
    held_out_one_in: int = 8

    def build(self, directory: Path) -> dict[str, Any]:
        """Write `{mentalese,verbose}_{train,heldout}.jsonl`, unless they are there with these settings.

        Returns:
          {"hash", "counts" (rows per file), "inputs", "files", "reused", "lines" (for people), "characters" (of an
          average solution in either style)}.

        Raises:
          ConfigError: as of `jaxpo.corpora.arithmetic.Arithmetic`, or `unknown_one_in` below 0.
        """
        Arithmetic(self.train, self.heldout, self.levels, self.seed, self.held_out_one_in).check()
        if self.unknown_one_in < 0:
            raise ConfigError(f"corpus.unknown_one_in={self.unknown_one_in} must be at least 0.")
        inputs = hashlib.sha256(json.dumps({"mentalese": FORMAT, **asdict(self)}).encode()).hexdigest()[:16]
        if (report := reusable(directory, inputs)) is not None:
            return {**report, "reused": True}
        parts = {"train": list(self._problems(self.train, False)), "heldout": list(self._problems(self.heldout, True))}
        files = {
            f"{style}_{part}.jsonl": [problem.row(style) for problem in found]
            for style in STYLES
            for part, found in parts.items()
        }
        counts = {name.removesuffix(".jsonl"): len(rows) for name, rows in files.items()}
        characters = {style: mean_characters(files[f"{style}_train.jsonl"]) for style in STYLES}
        lines = [
            f"mentalese: {self.train:,} word problems to train on, {self.heldout:,} held out, each solved in "
            f"{characters['mentalese']:.0f} characters of Mentalese and in {characters['verbose']:.0f} of prose"
        ]
        about = {"counts": counts, "lines": lines, "inputs": inputs, "characters": characters}
        return {**write(directory, files, about), "reused": False}

    def _problems(self, n: int, held_out: bool) -> Iterator[Problem]:
        """In the order of a hash, so that any part of the file has all levels."""
        shares = [n // len(self.levels) + (i < n % len(self.levels)) for i in range(len(self.levels))]
        found = [
            item
            for level, share in zip(self.levels, shares, strict=True)
            for item in items(level, share, seed=self.seed, held_out=held_out, one_in=self.held_out_one_in)
        ]
        for item in sorted(found, key=lambda item: item.id.partition("-")[2]):
            drawn = self.unknown_one_in and int(item.id[-4:], 16) % self.unknown_one_in == 0
            yield problem_of(item, unknown=bool(drawn) and may_be_unknown(item))


def mean_characters(rows: Sequence[Mapping[str, Any]]) -> float:
    """Of the completions."""
    return sum(len(row["completion"][0]["content"]) for row in rows) / len(rows)
