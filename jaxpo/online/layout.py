"""Where a step's answers lie: each a segment with its prompt, or several behind one prompt that they share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from jaxpo.data.packing.best_fit import Rows
from jaxpo.errors import RunError


class Answered(Protocol):
    """A prompt and an answer to it."""

    @property
    def prompt(self) -> np.ndarray:
        """int32 ids."""
        ...

    @property
    def tokens(self) -> np.ndarray:
        """int32 ids."""
        ...


@dataclass(frozen=True)
class Place:
    """Where an answer's segment lies.

    Attributes:
      row, slot, start: of its first position.
      before: tokens of its prompt that lie in the segment which it continues, instead of in its own.
      continues: the id of that segment; 0 = it begins with its prompt.
    """

    row: int
    slot: int
    start: int
    before: int = 0
    continues: int = 0


@dataclass(frozen=True)
class Shared:
    """What several answers' segments continue: their prompt but for its last token, with which each of them begins.

    That token's prediction is an answer's first token, so that it stands before each of them.
    """

    row: int
    slot: int
    start: int
    tokens: np.ndarray


@dataclass(frozen=True)
class Unit:
    """Answers to one prompt that lie one behind the other.

    Attributes:
      answers: their numbers.
      before: tokens that they share; 0 = nothing, each has its prompt.
      sizes: positions of each answer's own segment.
    """

    answers: range
    before: int
    sizes: tuple[int, ...]

    @property
    def size(self) -> int:
        """Positions of all."""
        return self.before + sum(self.sizes)

    @property
    def slots(self) -> int:
        """Segments of all."""
        return len(self.sizes) + (self.before > 0)


@dataclass(frozen=True)
class Layout:
    """The shape of every step's rows; a block is one row, since an answer is one segment.

    Attributes:
      rows: of a step.
      row_length, max_segment: positions.
      slots: segments of a row.
      microbatches: of a step; rows are filled one microbatch after another.
      pad_id: token at padding.
      roles: of an example's answers, which follow one another and lie in one row.
      share_prompts: answers to one prompt continue one copy of it.
    """

    rows: int
    row_length: int
    max_segment: int
    slots: int
    microbatches: int
    pad_id: int = 0
    roles: tuple[str, ...] = ("completion",)
    share_prompts: bool = False

    def row_number(self, filled: int) -> int:
        """The row that is filled as the n-th: microbatch i of p takes rows i, i + p, ... (see `Batch.split`)."""
        part, place = divmod(filled, self.rows // self.microbatches)
        return place * self.microbatches + part

    def places(self, answers: Sequence[Answered]) -> tuple[list[Place], list[Shared]]:
        """Of every answer, and of what some of them share: best fit, the longest unit first.

        Where what is shared does not fit (its units are larger), nothing is shared.

        Raises:
          RunError: they need more rows; not while a step has as many as its check asks for.
        """
        found = self._fitted(answers, list(self._sharing(answers))) if self.share_prompts else None
        found = self._fitted(answers, list(self._single(answers))) if found is None else found
        if found is None:
            raise RunError(f"{len(answers)} answers do not fit {self.rows} rows of {self.row_length} tokens.")
        return found

    def _single(self, answers: Sequence[Answered]) -> Iterator[Unit]:
        for first in range(0, len(answers), len(self.roles)):
            own = range(first, first + len(self.roles))
            yield Unit(own, 0, tuple(len(answers[i].prompt) + len(answers[i].tokens) for i in own))

    def _sharing(self, answers: Sequence[Answered]) -> Iterator[Unit]:
        """Examples in turn to one prompt, as many as a row holds."""
        each, first = len(self.roles), 0
        while first < len(answers):
            prompt, end = answers[first].prompt, first
            before = len(prompt) - 1
            unit = Unit(range(first, first), before, ())
            while end < len(answers) and np.array_equal(answers[end].prompt, prompt):
                sizes = (*unit.sizes, *(1 + len(answers[i].tokens) for i in range(end, end + each)))
                more = Unit(range(first, end + each), before, sizes)
                if unit.sizes and (more.size > self.row_length or more.slots > self.slots):
                    break
                unit, end = more, end + each
            alone = len(unit.sizes) == 1
            yield Unit(unit.answers, 0, (unit.size,)) if alone else unit
            first = end

    def _fitted(self, answers: Sequence[Answered], units: list[Unit]) -> tuple[list[Place], list[Shared]] | None:
        """None where the units need more rows."""
        rows = Rows(self.rows, self.row_length)
        found, shared = [Place(0, 0, 0)] * len(answers), []
        for unit in sorted(units, key=lambda unit: -unit.size):
            where = rows.fit([unit.size], self.slots + 1 - unit.slots)
            if where is None:
                return None
            (r,) = where
            row, slot, start = self.row_number(r), rows.used[r], self.row_length - rows.free[r]
            if unit.before:
                shared.append(Shared(row, slot, start, answers[unit.answers[0]].prompt[:-1]))
            continues = slot + 1 if unit.before else 0
            slot, start = slot + (unit.before > 0), start + unit.before
            for i, size in zip(unit.answers, unit.sizes, strict=True):
                found[i] = Place(row, slot, start, unit.before, continues)
                slot, start = slot + 1, start + size
            rows.free[r] -= unit.size
            rows.used[r] += unit.slots
        return found, shared
