"""Lengths that count differently for right and for wrong answers: the cosine reward, and L1's budgets."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxpo.data.rows.formats import Row
from jaxpo.errors import ConfigError
from jaxpo.evaluate.final_answer import grade
from jaxpo.judges.verifier import ANSWER, VerifierJudge
from jaxpo.online.rewards.base import Response, RewardFunction


@dataclass(frozen=True)
class LengthByCorrectness(RewardFunction):
    """A reward of the number of tokens n and of whether the final answer is right, as `VerifierReward` says it.

    Attributes:
      answer: the column with the reference.
    """

    answer: str = ANSWER

    @abstractmethod
    def of(self, n: int, right: bool, row: Row) -> float:
        """The reward of one answer."""

    def check(self, rows: Sequence[Row]) -> None:
        self._verifier.check(rows)

    def columns(self) -> tuple[str, ...]:
        return self._verifier.columns()

    @property
    def _verifier(self) -> VerifierJudge:
        return VerifierJudge(self.answer)

    def values(self, answers: Sequence[Response]) -> list[float | None]:
        reference = self._verifier.reference
        return [self.of(len(a.ids), grade(a.answer, reference(a.row)), a.row) for a in answers]


@dataclass(frozen=True)
class CosineReward(LengthByCorrectness):
    """Short right answers are worth more than long ones, and long wrong answers more than short ones.

        r(n) = end + (start - end) (1 + cos(pi n / longest)) / 2,    `exceeded` from `longest` tokens on

    Attributes:
      right: (start, end) of right answers.
      wrong: (start, end) of wrong ones.
      longest: tokens.
      exceeded: of answers that are as long or longer.

    Reference: Yeo et al. 2025, arXiv:2502.03373, section 4.
    """

    right: tuple[float, float] = (2.0, 1.0)
    wrong: tuple[float, float] = (-10.0, 0.0)
    longest: int = 256
    exceeded: float = -10.0

    NAME: ClassVar[str] = "cosine"

    def check(self, rows: Sequence[Row]) -> None:
        if self.longest < 1:
            raise ConfigError(f"longest is {self.longest}; it must be at least 1.")
        super().check(rows)

    def of(self, n: int, right: bool, row: Row) -> float:
        if n >= self.longest:
            return self.exceeded
        start, end = self.right if right else self.wrong
        return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * n / self.longest))


@dataclass(frozen=True)
class BudgetReward(LengthByCorrectness):
    """Answers as long as their row asks (L1).

        exact: r = right - alpha |budget - n|;    max: r = right clip(alpha (budget - n) + delta, 0, 1)

    Attributes:
      budget: the column with the number of tokens that is asked for.
      kind: "exact" or "max".
      alpha: of a token.
      delta: of "max", what a right answer of exactly that length is worth.

    Reference: Aggarwal and Welleck 2025, arXiv:2503.04697, equations 1 and 2.
    """

    budget: str = "budget"
    kind: Literal["exact", "max"] = "exact"
    alpha: float = 0.0003
    delta: float = 0.5

    NAME: ClassVar[str] = "budget"

    def check(self, rows: Sequence[Row]) -> None:
        if self.kind not in ("exact", "max"):
            raise ConfigError(f"kind is {self.kind!r}; it must be exact or max.")
        super().check(rows)
        for row in rows:
            tokens = row.data.get(self.budget)
            if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
                raise row.error(
                    f"column {self.budget!r} is {tokens!r}, not the number of tokens that the answer shall have.",
                    field=self.budget,
                    remedy="Give every row a whole number of at least 1.",
                )

    def columns(self) -> tuple[str, ...]:
        return (*super().columns(), self.budget)

    def of(self, n: int, right: bool, row: Row) -> float:
        apart = row.data[self.budget] - n
        if self.kind == "exact":
            return float(right) - self.alpha * abs(apart)
        return float(right) * min(max(self.alpha * apart + self.delta, 0.0), 1.0)
