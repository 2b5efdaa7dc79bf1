"""Guess a number: the environment says whether it is higher or lower."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxpo.online.environments.base import EnvironmentOf, Message, Step

_NUMBER = re.compile(r"-?\d+")


@dataclass(frozen=True)
class GuessNumber(EnvironmentOf):
    """The row's `number` is to be found; the reward is 1 for the first guess, and less by 1 / turns for every other.

    Attributes:
      turns: guesses.
    """

    NAME: ClassVar[str] = "guess_number"

    def open(self) -> Guessing:
        return Guessing(self.turns)

    def check(self, row: Mapping[str, Any]) -> str | None:
        whole = isinstance(row.get("number"), int) and not isinstance(row["number"], bool)
        return None if whole else "column 'number' is no whole number, which is to be guessed."


@dataclass
class Guessing:
    """One number.

    Attributes:
      turns: guesses that there are.
      guesses: so far.
    """

    turns: int
    number: int = 0
    guesses: int = 0
    calls: int = 0
    failures: int = 0

    def reset(self, row: Mapping[str, Any]) -> list[Message]:
        """The row's prompt."""
        self.number = row["number"]
        prompt = row["prompt"]
        return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)

    def step(self, messages: Sequence[Message]) -> Step:
        """The last number of the model's turn is its guess."""
        self.guesses += 1
        found = _NUMBER.findall(messages[-1]["content"])
        if not found:
            return [{"role": "user", "content": "Say a number."}], 0.0, False
        guess = int(found[-1])
        if guess == self.number:
            return [], 1.0 - (self.guesses - 1) / self.turns, True
        return [{"role": "user", "content": "higher" if guess < self.number else "lower"}], 0.0, False
