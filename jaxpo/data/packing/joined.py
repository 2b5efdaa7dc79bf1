"""Several sources of packed rows in one step: pairs beside single responses, recorded rows beside generated ones."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from jaxpo.config import Stage
from jaxpo.data.packing.batch import Batch
from jaxpo.data.packing.caps import shared_problems
from jaxpo.data.packing.common_block import CommonBlock
from jaxpo.data.source import Feed, Source
from jaxpo.errors import ConfigError, RunError


class PackedSource(Source, Protocol):
    """A source whose feeds give a `Batch`, always of one shape."""

    def empty(self) -> Batch:
        """This process's rows of a step without any example: shapes, dtypes and fills of every batch."""
        ...


class Joined:
    """A source whose every step holds the rows of all its parts.

    Roles and columns that a part lacks are absent there: -1, and the column's fill. Blocks of all parts get the largest
    shape among them, small ones are put together; they alternate, so that every process, device and microbatch has
    them in like proportion. Example i of part p has the id `i * parts + p`.

    Args:
      parts: (source, its rows of a step over all processes), in the order in which they alternate.
      divisor: microbatches times data-parallel devices; each part's blocks must divide by it.
      process_count: processes that share a step.

    Raises:
      ConfigError: a part whose rows do not divide, or parts whose columns differ in shape or dtype.
    """

    def __init__(self, parts: Sequence[tuple[PackedSource, int]], *, divisor: int = 1, process_count: int = 1):
        self.parts = tuple(parts)
        self.rows_per_step = sum(rows for _, rows in self.parts)
        names = [f"joined source {i} ({type(source).__name__})" for i, (source, _) in enumerate(self.parts, start=1)]
        batches = [source.empty() for source, _ in self.parts]
        self._block = CommonBlock(names, batches)
        sharers = math.lcm(divisor, process_count)
        problems = []
        for name, batch, (_, rows) in zip(names, batches, self.parts, strict=True):
            made = batch.rows * process_count
            if made != rows:
                problems.append(f"{name}: it makes {made} rows per step, not {rows}; build it for {rows} rows.")
            else:
                problems += [f"{name}: {problem}" for problem in shared_problems(rows, self._block.block_rows, sharers)]
        if problems:
            raise ConfigError(problems)
        described = [(source.hash, rows) for source, rows in self.parts]
        self.hash = hashlib.sha256(repr(("joined", described)).encode()).hexdigest()

    def empty(self) -> Batch:
        """A step without any example."""
        return self._block.join([source.empty() for source, _ in self.parts])

    def total_steps(self, stage: Stage) -> int:
        """Optimiser steps of the stage's budget; its epochs are those of the first part."""
        source, rows = self.parts[0]
        return source.total_steps(stage if stage.max_tokens else dataclasses.replace(stage, rows_per_step=rows))

    def epoch_of(self, rows_seen: int) -> float:
        """Epochs of the first part."""
        source, rows = self.parts[0]
        return source.epoch_of(self._steps_before(rows_seen) * rows)

    def figures_of(self, rows_seen: int) -> dict[str, float]:
        """Of all parts; of two with one name the first."""
        before = self._steps_before(rows_seen)
        found: dict[str, float] = {}
        for source, rows in self.parts:
            found = source.figures_of(before * rows) | found
        return found

    def open(self, rows_seen: int, steps: int) -> Feed:
        """The next `steps` batches after `rows_seen` rows of all parts together."""
        before = self._steps_before(rows_seen)
        with contextlib.ExitStack() as opened:
            closing = (contextlib.closing(source.open(before * rows, steps)) for source, rows in self.parts)
            feeds = [opened.enter_context(feed) for feed in closing]
            return _Feeds(feeds, self._block.join, opened.pop_all())

    def _steps_before(self, rows_seen: int) -> int:
        if rows_seen % self.rows_per_step:
            raise RunError(
                f"rows_seen={rows_seen} is not a multiple of {self.rows_per_step}, the rows of a joined step: the run "
                "was started with other rows of its sources."
            )
        return rows_seen // self.rows_per_step


class _Feeds:
    """The feeds of all parts, a step of each at a time."""

    def __init__(self, feeds: Sequence[Feed], join: Callable[[Sequence[Any]], Batch], opened: contextlib.ExitStack):
        self._feeds, self._join, self._opened = feeds, join, opened

    def next(self, state: Any) -> Batch:
        return self._join([feed.next(state) for feed in self._feeds])

    def settle(self) -> None:
        for feed in self._feeds:
            feed.settle()

    def close(self) -> None:
        self._opened.close()
