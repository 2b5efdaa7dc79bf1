"""Answers to packed rows: as few microbatches as hold them, always in one shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxpo.data.packing.batch import CONTINUES, Batch
from jaxpo.online.layout import Layout, Place


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
    continues = np.zeros((layout.rows, layout.slots), np.int32)
    each = len(layout.roles)
    placed = layout.places(answers)
    for common in placed.shared:
        row, first, end = common.row, common.start, common.start + len(common.tokens)
        tokens[row, first:end], segment_ids[row, first:end] = common.tokens, common.slot + 1
        positions[row, first:end] = np.arange(end - first)
        masks["prompt"][row, first + 1 : end] = True
    for i, (answer, place) in enumerate(zip(answers, placed.answers, strict=True)):
        row, slot, start = place.row, place.slot, place.start
        first, end = ends_of(answer, place)
        tokens[row, start:first], tokens[row, first:end] = answer.prompt[place.shared :], answer.tokens
        segment_ids[row, start:end], positions[row, start:end] = slot + 1, place.shared + np.arange(end - start)
        continues[row, slot] = place.continues
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
        "per_segment": {CONTINUES: continues} if layout.longest_shared else {},
        "per_example": per_example,
        "roles": roles,
        "example_id": example_id,
    }
    return Batch(
        **arrays, block_rows=1, slots=layout.slots, max_segment=layout.max_segment, reach=layout.longest_shared or None
    )


def share_of(batch: Batch, index: int, count: int) -> Batch:
    """The rows of a step that one of several processes brings: contiguous ones, with what is about them."""

    def own(x: np.ndarray) -> np.ndarray:
        each = x.shape[0] // count
        return x[index * each : (index + 1) * each]

    return batch if count == 1 else jax.tree.map(own, batch)


def taken_apart(values: np.ndarray, answers: Sequence[Trained], layout: Layout) -> list[np.ndarray]:
    """Per-token values `[R, S]` of a step's batch, of each answer's own tokens."""
    places = zip(answers, layout.places(answers).answers, strict=True)
    ends = [(place.row, *ends_of(answer, place)) for answer, place in places]
    return [np.asarray(values[row, first:end], np.float32) for row, first, end in ends]


def ends_of(answer: Trained, place: Place) -> tuple[int, int]:
    """Position of an answer's first token, and the one after its last."""
    first = place.start + len(answer.prompt) - place.shared
    return first, first + len(answer.tokens)
