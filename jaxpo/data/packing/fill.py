"""Blocks of a plan to the arrays of a Batch, and per-token results back to their examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxpo.data.packing.batch import Batch
from jaxpo.data.packing.best_fit import Caps, Packed
from jaxpo.data.packing.ragged import RaggedColumn
from jaxpo.data.packing.teacher_records import TeacherRecords, fill
from jaxpo.data.tokens.dataset import Dataset
from jaxpo.data.tokens.examples import Example

Blocks = Sequence[tuple[Packed, int]]


@dataclass(frozen=True)
class Place:
    """Where one example lies in a batch: its number n there, its number in the dataset, and its segments' positions."""

    n: int
    example: int
    block: int
    row: np.ndarray
    slot: np.ndarray
    start: np.ndarray


def places(dataset: Dataset, caps: Caps, blocks: Blocks) -> Iterator[Place]:
    """All examples of the blocks; blocks beyond the end of the plan are empty."""
    for i, (packed, b) in enumerate(blocks):
        if b >= len(packed.blocks):
            continue
        for j, example in enumerate(packed.blocks[b]):
            if example >= 0:
                at = slice(dataset.lengths.offsets[example], dataset.lengths.offsets[example + 1])
                n = i * caps.examples + j
                yield Place(n, int(example), i, packed.row[at], packed.slot[at], packed.start[at])


def assemble(
    dataset: Dataset,
    caps: Caps,
    blocks: Blocks,
    extra_per_token: Mapping[str, RaggedColumn],
    records: TeacherRecords | None = None,
) -> Batch:
    """The blocks, one after another, as a Batch of numpy arrays."""
    r, n = len(blocks) * caps.block_rows, len(blocks) * caps.examples
    shape = (r, caps.row_length)
    tokens, segment_ids, positions = (np.zeros(shape, np.int32) for _ in range(3))
    tokens.fill(dataset.tokenizer.pad_id)
    masks = {name: np.zeros(shape, bool) for name in ("completion", "prompt")}
    per_token: dict[str, np.ndarray] = {name: np.zeros(shape, np.float32) for name in extra_per_token}
    per_token |= {name: np.zeros(shape, np.int32) for name in dataset.labels}
    columns = {name: np.full((n, *c.shape), c.fill, c.dtype) for name, c in dataset.columns.items()}
    roles = {name: np.full((n, k) if k else n, -1, np.int32) for name, k in dataset.roles.items()}
    example_id = np.full(n, -1, np.int32)

    found = list(places(dataset, caps, blocks))
    numbers = [p.example for p in found]
    taught = {} if records is None else dict(zip(numbers, records.read(numbers), strict=True))
    of_teacher = {} if records is None else records.empty(shape)
    for place, example in zip(found, dataset.store.read(numbers), strict=True):
        if records is not None:
            fill(of_teacher, taught[place.example], example, place.block * caps.block_rows + place.row, place.start)
        example_id[place.n] = place.example
        for s, segment in enumerate(example.segments):
            length, start = len(segment.tokens), place.start[s]
            at = (place.block * caps.block_rows + place.row[s], slice(start, start + length))
            tokens[at], segment_ids[at], positions[at] = segment.tokens, place.slot[s] + 1, np.arange(length)
            masks["completion"][at], masks["prompt"][at] = segment.supervised, ~segment.supervised
            masks["completion"][at[0], start] = masks["prompt"][at[0], start] = False
            for name, column in extra_per_token.items():
                per_token[name][at] = column.get(place.example, s)
                per_token[name][at[0], start] = 0
            for name, label in segment.labels.items():
                per_token[name][at] = label
        _set_roles(roles, place, example, caps)
        _set_columns(columns, place.n, example)
    arrays: dict[str, Any] = {
        "tokens": tokens,
        "segment_ids": segment_ids,
        "positions": positions,
        "masks": masks,
        "per_token": per_token | of_teacher,
        "per_segment": {},
        "per_example": columns,
        "roles": roles,
        "example_id": example_id,
    }
    return Batch(**arrays, block_rows=caps.block_rows, slots=caps.slots, max_segment=caps.max_segment)


def scatter(dataset: Dataset, caps: Caps, blocks: Blocks, values: np.ndarray, column: RaggedColumn) -> None:
    """The inverse of reading `extra_per_token`: `[R, S]` values to their examples' segments."""
    for place in places(dataset, caps, blocks):
        for s, length in enumerate(dataset.lengths.of(place.example)):
            row = values[place.block * caps.block_rows + place.row[s]]
            column.write(place.example, s, row[place.start[s] : place.start[s] + length])


def _set_roles(roles: Mapping[str, np.ndarray], place: Place, example: Example, caps: Caps) -> None:
    where = np.append(place.row * caps.slots + place.slot, -1)
    for name, index in example.roles.items():
        if isinstance(index, list):
            roles[name][place.n, : len(index)] = where[index]
        else:
            roles[name][place.n] = where[index]


def _set_columns(columns: Mapping[str, np.ndarray], n: int, example: Example) -> None:
    for name, array in columns.items():
        value: Any = example.columns[name]
        if isinstance(value, list) and array.ndim == 2:
            array[n, : len(value)] = value
        else:
            array[n] = value
