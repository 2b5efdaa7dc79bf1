"""What a benchmark is: a key, a question, and a function that measures all contestants and the ceilings beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Options:
    """How to measure.

    Attributes:
      repeats: interleaved repetitions of every contestant, after one that warms up.
      threads: that each contestant may use.
      smoke: shapes as small as they can be: does it run.
      peers: measure the other libraries too, where they are installed.
      full: the shapes of the goal, and every contestant, even where that takes many minutes.
    """

    repeats: int = 5
    threads: int = 2
    smoke: bool = False
    peers: bool = True
    full: bool = False

    def at_least(self, repeats: int) -> Options:
        """With so many repetitions, unless more are asked for: where one is short, what else the machine does is not.

        A smoke run stays as it is.
        """
        return self if self.smoke else replace(self, repeats=max(self.repeats, repeats))

    def at_most(self, repeats: int) -> Options:
        """With no more repetitions than these: where one takes long, few show the spread."""
        return replace(self, repeats=min(self.repeats, repeats))


@dataclass(frozen=True)
class Row:
    """One contestant: `amount` of `unit` in each repetition, and what the repetitions took.

    Attributes:
      wall: seconds of each repetition.
      cpu: seconds of the processor over all threads, likewise; empty where it was not measured.
      peak_bytes: most memory at once, where it was measured.
      ceiling: units per second that the ceiling of `Table.ceilings` named here allows; None where there is none.
      missing: why it was not measured; then there are no seconds.
    """

    name: str
    amount: float = 0.0
    wall: tuple[float, ...] = ()
    cpu: tuple[float, ...] = ()
    peak_bytes: int | None = None
    ceiling: float | None = None
    missing: str | None = None


@dataclass(frozen=True)
class Table:
    """Contestants of one question, measured in turn; `unit` is what `Row.amount` counts."""

    title: str
    unit: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Result:
    """All that one benchmark found.

    Attributes:
      ceilings: what this machine can do at these shapes, measured in the same run: name -> (value, unit).
      notes: sentences for the reader, such as what bounds a figure.
    """

    tables: tuple[Table, ...]
    ceilings: dict[str, tuple[float, str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Work:
    """A benchmark; each file of this folder that has one names it `WORK`.

    Attributes:
      key: "W1" ...
      goal: what was hoped for, as the reader will see it beside the figures.
    """

    key: str
    title: str
    goal: str
    measure: Callable[[Options], Result]
