"""Rewards for how long an answer is, and for how often it repeats itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxpo.data.rows.formats import Row
from jaxpo.errors import ConfigError
from jaxpo.online.rewards.base import Response, RewardFunction


@dataclass(frozen=True)
class SoftOverlong(RewardFunction):
    """DAPO's penalty: 0 up to `longest - buffer` tokens, then linear to -1 at `longest`, and -1 beyond.

    Reference: Yu et al. 2025, arXiv:2503.14476, eq. 13; `get_soft_overlong_punishment` of TRL.
    """

    longest: int = 256
    buffer: int = 64

    NAME: ClassVar[str] = "soft_overlong"

    def check(self, rows: Sequence[Row]) -> None:
        if not 0 < self.buffer <= self.longest:
            raise ConfigError(f"buffer is {self.buffer}; it must lie in 1..longest ({self.longest}).")

    def values(self, answers: Sequence[Response]) -> list[float | None]:
        free = self.longest - self.buffer
        return [-min(max(len(a.ids) - free, 0) / self.buffer, 1.0) for a in answers]


@dataclass(frozen=True)
class LengthReward(RewardFunction):
    """A function of the number of tokens n, between `value` at n = 0 and `end` at `longest`.

    Attributes:
      shape: "linear"; "cosine", `end + (value - end) (1 + cos(pi n / longest)) / 2` (arXiv 2502.03373); "budget",
        `value - |n - longest| / longest`, for answers of a given length (L1, arXiv 2503.04697).
      longest: tokens; the shape ends there.
    """

    shape: str = "linear"
    longest: int = 256
    value: float = 1.0
    end: float = 0.0

    NAME: ClassVar[str] = "length"

    def check(self, rows: Sequence[Row]) -> None:
        if self.shape not in ("linear", "cosine", "budget"):
            raise ConfigError(f"shape is {self.shape!r}; it must be linear, cosine or budget.")
        if self.longest < 1:
            raise ConfigError(f"longest is {self.longest}; it must be at least 1.")

    def values(self, answers: Sequence[Response]) -> list[float | None]:
        return [self._of(len(a.ids)) for a in answers]

    def _of(self, n: int) -> float:
        if self.shape == "budget":
            return self.value - abs(n - self.longest) / self.longest
        share = min(n / self.longest, 1.0)
        left = 1.0 - share if self.shape == "linear" else 0.5 * (1.0 + math.cos(math.pi * share))
        return self.end + (self.value - self.end) * left


@dataclass(frozen=True)
class RepetitionPenalty(RewardFunction):
    """`-most * (1 - distinct n-grams / n-grams)` of the answer's words; 0 of answers shorter than n words.

    Reference: Yeo et al. 2025, arXiv:2502.03373.
    """

    n: int = 3
    most: float = 1.0

    NAME: ClassVar[str] = "repetition"

    def check(self, rows: Sequence[Row]) -> None:
        if self.n < 1:
            raise ConfigError(f"n is {self.n}; it must be at least 1.")

    def values(self, answers: Sequence[Response]) -> list[float | None]:
        return [self._of(a.answer.split()) for a in answers]

    def _of(self, words: list[str]) -> float:
        grams = [tuple(words[i : i + self.n]) for i in range(len(words) - self.n + 1)]
        return -self.most * (1.0 - len(set(grams)) / len(grams)) if grams else 0.0
