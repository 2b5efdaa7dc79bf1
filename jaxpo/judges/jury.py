"""Several judges as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxpo.data.rows.formats import Row
from jaxpo.errors import ConfigError
from jaxpo.judges.asking import Ask
from jaxpo.judges.base import Judge, Networks


@dataclass(frozen=True)
class Jury(Judge):
    """The weighted mean of several judges' scores; give judges of one scale. An answer needs a score from each.

    Attributes:
      judges: the members; each keeps its own scores, so that one can be added without asking the others again.
      shares: what each counts; None = alike.
    """

    judges: tuple[Judge, ...] = ()
    shares: tuple[float, ...] | None = None

    NAME: ClassVar[str] = "jury"

    @property
    def MAIN_THREAD(self) -> bool:  # type: ignore[override]
        """Whether one of the judges does."""
        return any(judge.MAIN_THREAD for judge in self.judges)

    def check(self, rows: Sequence[Row]) -> None:
        if not self.judges or (self.shares is not None and len(self.shares) != len(self.judges)):
            raise ConfigError(
                f"a jury has {len(self.judges)} judges and shares {self.shares}; give one share per judge."
            )
        if self.shares is not None and not (min(self.shares) >= 0 < sum(self.shares)):
            raise ConfigError(f"the jury's shares are {self.shares}; none may be negative and one must be positive.")
        for judge in self.judges:
            judge.check(rows)

    def models(self) -> tuple[str, ...]:
        return tuple(name for judge in self.judges for name in judge.models())

    def reward_models(self) -> tuple[str, ...]:
        return tuple(name for judge in self.judges for name in judge.reward_models())

    def members(self) -> tuple[Judge, ...]:
        return tuple(member for judge in self.judges for member in judge.members())

    def weights(self) -> tuple[float, ...]:
        shares = self.shares or (1.0,) * len(self.judges)
        total = sum(shares)
        return tuple(s / total * w for s, judge in zip(shares, self.judges, strict=True) for w in judge.weights())

    def open(self, networks: Networks) -> Ask:
        raise TypeError("a jury is asked through its members")
