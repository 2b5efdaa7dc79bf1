"""What is computed of measured seconds: rates, shares, and how many times as fast jaxpo is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.work import Row, Table

OURS = "jaxpo"


@dataclass(frozen=True)
class Spread:
    """Median, smallest and largest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(median(values), min(values), max(values))


def rate(row: Row) -> Spread | None:
    """Units per second over the repetitions; None where the row has no amount or was not measured."""
    return Spread.of([row.amount / s for s in row.wall]) if row.amount and row.wall else None


def share(row: Row) -> float | None:
    """Median rate over the ceiling's."""
    found = rate(row)
    return found.median / row.ceiling if found and row.ceiling else None


def reference(table: Table) -> Row | None:
    """The row that the others are compared with: the first of jaxpo's that was measured."""
    return next((row for row in table.rows if row.name.startswith(OURS) and row.wall), None)


def advantage(ours: Row, other: Row, *, of: str = "wall") -> Spread | None:
    """How many times as fast as `other` ours is, per unit: above 1, ours is faster.

    Repetitions of one round are compared with each other where both have as many, else median with median.

    Args:
      of: "wall" or "cpu".
    """
    mine, theirs = getattr(ours, of), getattr(other, of)
    if not mine or not theirs or bool(ours.amount) != bool(other.amount):
        return None
    scale = ours.amount / other.amount if other.amount else 1.0
    if len(mine) == len(theirs):
        return Spread.of([scale * t / m for m, t in zip(mine, theirs, strict=True)])
    return Spread(
        scale * median(theirs) / median(mine), scale * min(theirs) / max(mine), scale * max(theirs) / min(mine)
    )
