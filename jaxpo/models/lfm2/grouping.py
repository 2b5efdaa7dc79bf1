"""Which layers of a pattern can share a loop. Plain Python: knows nothing of arrays."""

from __future__ import annotations

import functools
from collections.abc import Hashable
from dataclasses import dataclass

LOOP = 1
"""What a loop adds to a program beside its body, in layers: stacking, slicing, and the same of their gradients."""
UNROLLED_UP_TO = 24
"""Layers of the deepest model that runs without loops on an accelerator unless it is told to."""


@dataclass(frozen=True)
class Group:
    """`period` consecutive layers from `start` on, `repeats` times over; a layer by itself is a group of one, once."""

    start: int
    period: int = 1
    repeats: int = 1

    @property
    def stop(self) -> int:
        """The first layer after it."""
        return self.start + self.period * self.repeats

    def layers(self, place: int) -> range:
        """The layers that stand at one place of the period."""
        return range(self.start + place, self.stop, self.period)


@functools.cache
def grouped(signatures: tuple[Hashable, ...]) -> tuple[Group, ...]:
    """The cheapest cut of a pattern into layers by themselves and loops over repeated groups.

        cost = sum over parts of (1 for a layer by itself, period + LOOP for a loop)

    By dynamic programming over prefixes: best(i) = min over the last part of best(its start) + its cost. Of cuts that
    cost the same the one with the fewest loops is taken, then that with the longest.

    Args:
      signatures: one per layer; equal ones are layers that one program can compute.
    """
    best: list[tuple[int, int, tuple[Group, ...]]] = [(0, 0, ())]
    for stop in range(1, len(signatures) + 1):
        cost, loops, parts = best[stop - 1]
        choice = (cost + 1, loops, (*parts, Group(stop - 1)))
        for period in range(1, stop // 2 + 1):
            for repeats in range(_repeats(signatures, stop, period), 1, -1):
                start = stop - period * repeats
                cost, loops, parts = best[start]
                found = (cost + period + LOOP, loops + 1, (*parts, Group(start, period, repeats)))
                choice = min(choice, found, key=lambda c: c[:2])
        best.append(choice)
    return best[-1][2]


def _repeats(signatures: tuple[Hashable, ...], stop: int, period: int) -> int:
    """How many times the last `period` layers before `stop` stand there one after another."""
    count, last = 1, signatures[stop - period : stop]
    while (start := stop - (count + 1) * period) >= 0 and signatures[start : start + period] == last:
        count += 1
    return count


def bodies(groups: tuple[Group, ...]) -> int:
    """Layers that the program holds."""
    return sum(group.period for group in groups)
