"""Answers to packed rows: as few microbatches as hold them, always in one shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxpo.data.packing.batch import Batch
from jaxpo.data.packing.best_fit import Rows
from jaxpo.errors import RunError


@dataclass(frozen=True)
class Trained:
    """An answer as it is trained on.

    Attributes:
      number: of the answer in its step.
      prompt, tokens: int32.
      on: whether its tokens are trained on.
      per_token: name -> float32, as long as `tokens`.
      columns: name -> number.
      mask: bool, the tokens that the model wrote; None = all.
      own: the policy of the moment drew it, so that trainer and sampler can be compared on it.
    """

    number: int
    prompt: np.ndarray
    tokens: np.ndarray
    on: bool
    per_token: Mapping[str, np.ndarray]
    columns: Mapping[str, float]
    own: bool = True
    mask: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.prompt) + len(self.tokens)


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
    """

    rows: int
    row_length: int
    max_segment: int
    slots: int
    microbatches: int
    pad_id: int = 0
    roles: tuple[str, ...] = ("completion",)

    def row_number(self, filled: int) -> int:
        """The row that is filled as the n-th: microbatch i of p takes rows i, i + p, ... (see `Batch.split`)."""
        part, place = divmod(filled, self.rows // self.microbatches)
        return place * self.microbatches + part

    def places(self, lengths: Sequence[int]) -> list[tuple[int, int, int]]:
        """`(row, slot, first position)` of segments of these lengths: best fit, the longest example first.

        Raises:
          RunError: they need more rows; not while a step has as many as its check asks for.
        """
        rows, each = Rows(self.rows, self.row_length), len(self.roles)
        found: list[tuple[int, int, int]] = [(0, 0, 0)] * len(lengths)
        examples = [range(i, i + each) for i in range(0, len(lengths), each)]
        for example in sorted(examples, key=lambda example: -sum(lengths[i] for i in example)):
            where = rows.fit([sum(lengths[i] for i in example)], self.slots + 1 - each)
            if where is None:
                raise RunError(f"{len(lengths)} answers do not fit {self.rows} rows of {self.row_length} tokens.")
            (r,) = where
            for i in example:
                found[i] = (self.row_number(r), rows.used[r], self.row_length - rows.free[r])
                rows.free[r] -= lengths[i]
                rows.used[r] += 1
        return found


def batch_of(answers: Sequence[Trained], layout: Layout, names: tuple[str, ...], columns: tuple[str, ...]) -> Batch:
    """A step's batch, as numpy arrays.

    Args:
      names: of the per-token columns.
      columns: of the per-example columns.
    """
    shape, n = (layout.rows, layout.row_length), layout.rows * layout.slots
    tokens, segment_ids, positions = (np.zeros(shape, np.int32) for _ in range(3))
    tokens.fill(layout.pad_id)
    masks = {name: np.zeros(shape, bool) for name in ("completion", "prompt")}
    per_token = {name: np.zeros(shape, np.float32) for name in names}
    per_example = {name: np.zeros(n, np.float32) for name in columns}
    roles, example_id = {role: np.full(n, -1, np.int32) for role in layout.roles}, np.full(n, -1, np.int32)
    each = len(layout.roles)
    for i, (answer, (row, slot, start)) in enumerate(
        zip(answers, layout.places([len(a) for a in answers]), strict=True)
    ):
        end, first = start + len(answer), start + len(answer.prompt)
        tokens[row, start:first], tokens[row, first:end] = answer.prompt, answer.tokens
        segment_ids[row, start:end], positions[row, start:end] = slot + 1, np.arange(end - start)
        masks["completion"][row, first:end] = answer.on if answer.mask is None else answer.mask & answer.on
        masks["prompt"][row, start + 1 : first] = True
        for name in names:
            per_token[name][row, first:end] = answer.per_token[name]
        at = row * layout.slots + slot - i % each  # an example is where its first answer is
        roles[layout.roles[i % each]][at], example_id[at] = slot, answer.number
        for name in columns:
            per_example[name][at] = answer.columns[name]
    arrays: dict[str, Any] = {
        "tokens": tokens,
        "segment_ids": segment_ids,
        "positions": positions,
        "masks": masks,
        "per_token": per_token,
        "per_segment": {},
        "per_example": per_example,
        "roles": roles,
        "example_id": example_id,
    }
    return Batch(**arrays, block_rows=1, slots=layout.slots, max_segment=layout.max_segment)


def share_of(batch: Batch, index: int, count: int) -> Batch:
    """The rows of a step that one of several processes brings: contiguous ones, with what is about them."""

    def own(x: np.ndarray) -> np.ndarray:
        each = x.shape[0] // count
        return x[index * each : (index + 1) * each]

    return batch if count == 1 else jax.tree.map(own, batch)


def taken_apart(values: np.ndarray, answers: Sequence[Trained], layout: Layout) -> list[np.ndarray]:
    """Per-token values `[R, S]` of a step's batch, of each answer's own tokens."""
    places = layout.places([len(a) for a in answers])
    starts = [(row, start + len(a.prompt), start + len(a)) for a, (row, _, start) in zip(answers, places, strict=True)]
    return [np.asarray(values[row, first:end], np.float32) for row, first, end in starts]
