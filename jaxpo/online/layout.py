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
      shared: tokens of its prompt that lie in the segment which it continues, instead of in its own.
      continues: the id of that segment; 0 = it begins with its prompt.
    """

    row: int
    slot: int
    start: int
    shared: int = 0
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
class Together:
    """Answers that lie one behind the other.

    Attributes:
      answers: their numbers.
      shared: tokens that they share; 0 = nothing, each has its prompt.
      sizes: positions of each answer's own segment.
    """

    answers: range
    shared: int
    sizes: tuple[int, ...]

    @property
    def size(self) -> int:
        """Positions of all."""
        return self.shared + sum(self.sizes)

    @property
    def slots(self) -> int:
        """Segments of all."""
        return len(self.sizes) + (self.shared > 0)


@dataclass(frozen=True)
class Placed:
    """Where a step's answers lie.

    Attributes:
      answers: of every answer.
      shared: what some of them share.
      rows: how many hold something.
    """

    answers: list[Place]
    shared: list[Shared]
    rows: int


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
      longest_shared: positions that answers take at most behind one copy of their prompt; 0 = each has a prompt.
    """

    rows: int
    row_length: int
    max_segment: int
    slots: int
    microbatches: int
    pad_id: int = 0
    roles: tuple[str, ...] = ("completion",)
    longest_shared: int = 0

    def row_number(self, filled: int) -> int:
        """The row that is filled as the n-th: microbatch i of p takes rows i, i + p, ... (see `Batch.split`)."""
        part, place = divmod(filled, self.rows // self.microbatches)
        return place * self.microbatches + part

    def places(self, answers: Sequence[Answered]) -> Placed:
        """Best fit, the longest first. Prompts are shared unless that fills more microbatches: a group lies together.

        Raises:
          RunError: they need more rows; not while a step has as many as its check asks for.
        """
        ways = [self._fitted(answers, list(self._alone(answers, self._examples(answers))))]
        if self.longest_shared:
            ways.insert(0, self._fitted(answers, list(self._sharing(answers))))
        fitting = [way for way in ways if way is not None]
        if not fitting:
            raise RunError(f"{len(answers)} answers do not fit {self.rows} rows of {self.row_length} tokens.")
        each = self.rows // self.microbatches
        return min(fitting, key=lambda way: -(-way.rows // each))

    def _examples(self, answers: Sequence[Answered]) -> list[range]:
        each = len(self.roles)
        return [range(first, first + each) for first in range(0, len(answers), each)]

    def _alone(self, answers: Sequence[Answered], examples: Sequence[range]) -> Iterator[Together]:
        for own in examples:
            yield Together(own, 0, tuple(len(answers[i].prompt) + len(answers[i].tokens) for i in own))

    def _sharing(self, answers: Sequence[Answered]) -> Iterator[Together]:
        """Examples in turn to one prompt, as many as lie together; an answer by itself has its prompt."""
        examples = self._examples(answers)
        while examples:
            first = answers[examples[0][0]].prompt
            found = Together(range(examples[0].start, examples[0].start), len(first) - 1, ())
            while examples and all(np.array_equal(answers[i].prompt, first) for i in examples[0]):
                sizes = (*found.sizes, *(1 + len(answers[i].tokens) for i in examples[0]))
                more = Together(range(found.answers.start, examples[0].stop), found.shared, sizes)
                if found.sizes and (more.size > self.longest_shared or more.slots > self.slots):
                    break
                found, examples = more, examples[1:]
            if not found.sizes:  # an example whose prompts differ
                yield from self._alone(answers, examples[:1])
                examples = examples[1:]
            else:
                yield found if len(found.sizes) > 1 else Together(found.answers, 0, (found.size,))

    def _fitted(self, answers: Sequence[Answered], parts: list[Together]) -> Placed | None:
        """None where they need more rows."""
        rows = Rows(self.rows, self.row_length)
        found, shared = [Place(0, 0, 0)] * len(answers), []
        for part in sorted(parts, key=lambda part: -part.size):
            where = rows.fit([part.size], self.slots + 1 - part.slots)
            if where is None:
                return None
            (r,) = where
            row, slot, start = self.row_number(r), rows.used[r], self.row_length - rows.free[r]
            if part.shared:
                shared.append(Shared(row, slot, start, answers[part.answers[0]].prompt[:-1]))
            continues = slot + 1 if part.shared else 0
            slot, start = slot + (part.shared > 0), start + part.shared
            for i, size in zip(part.answers, part.sizes, strict=True):
                found[i] = Place(row, slot, start, part.shared, continues)
                slot, start = slot + 1, start + size
            rows.free[r] -= part.size
            rows.used[r] += part.slots
        return Placed(found, shared, sum(used > 0 for used in rows.used))
