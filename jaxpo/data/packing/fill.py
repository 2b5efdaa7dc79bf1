"""Blocks of a plan to the arrays of a Batch, and per-token results back to their examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxpo.data.packing.batch import Batch
from jaxpo.data.packing.best_fit import Caps, Laid
from jaxpo.data.packing.columns import Columns
from jaxpo.data.packing.media import empty_media, lay_media, media_of
from jaxpo.data.packing.plan import Part
from jaxpo.data.packing.ragged import RaggedColumn
from jaxpo.data.rows.columns import laid_out
from jaxpo.data.tokens.dataset import Dataset
from jaxpo.data.tokens.examples import Example
from jaxpo.data.tokens.layout import Layout
from jaxpo.data.tokens.media import MEDIA
from jaxpo.data.tokens.per_token import KEY

_NO_MEDIA = Laid.nowhere(0)
Blocks = Sequence[tuple[Part, int]]
ABSENT = {MEDIA: -1, KEY: 1}
"""What stands in a per-token column where a segment does not have it: no vector, a key like any other; 0 else."""


@dataclass(frozen=True)
class Place:
    """Where one example lies in a batch: its number n there, its number in the dataset, and its segments' positions.

    Attributes:
      media: where its media lie.
    """

    n: int
    example: int
    block: int
    row: np.ndarray
    slot: np.ndarray
    start: np.ndarray
    media: Laid


def places(caps: Caps, blocks: Blocks) -> Iterator[Place]:
    """All examples of the blocks; blocks beyond the end of the plan are empty."""
    for i, (part, b) in enumerate(blocks):
        packed, lengths = part.packed, part.lengths
        if b >= len(packed.blocks):
            continue
        for j, local in enumerate(packed.blocks[b].tolist()):
            if local >= 0:
                laid = packed.segments.of(lengths, local)
                media = _NO_MEDIA if lengths.media is None else packed.media.of(lengths.media, local)
                example = int(part.examples[local])
                yield Place(i * caps.examples + j, example, i, laid.row, laid.slot, laid.start, media)


def assemble(dataset: Dataset, caps: Caps, blocks: Blocks, beside: Sequence[Columns] = ()) -> Batch:
    """The blocks, one after another, as a Batch of numpy arrays.

    Args:
      beside: readers of further per-token columns.
    """
    r, n = len(blocks) * caps.block_rows, len(blocks) * caps.examples
    shape = (r, caps.row_length)
    tokens, segment_ids, positions = (np.zeros(shape, np.int32) for _ in range(3))
    tokens.fill(dataset.tokenizer.pad_id)
    masks = {name: np.zeros(shape, bool) for name in ("completion", "prompt")}
    per_token = _empty(shape, dataset.per_token, *(columns.layout for columns in beside))
    per_example = {name: np.full((n, *c.shape), c.fill, c.dtype) for name, c in dataset.columns.items()}
    roles = {name: np.full((n, k) if k else n, -1, np.int32) for name, k in dataset.roles.items()}
    example_id = np.full(n, -1, np.int32)
    media = empty_media(dataset, caps, len(blocks))

    found = list(places(caps, blocks))
    numbers = [p.example for p in found]
    examples = dataset.store.read(numbers)
    further = (columns.of_examples(numbers, examples) for columns in beside)
    for place, example, *columns in zip(found, examples, *further, strict=True):
        shown = media_of(dataset, example)
        if shown is None:  # as if there were no example
            continue
        example_id[place.n] = place.example
        vectors = lay_media(media, shown, place.media, place.block, caps)
        for s, segment in enumerate(example.segments):
            length, start = len(segment.tokens), place.start[s]
            at = (place.block * caps.block_rows + place.row[s], slice(start, start + length))
            tokens[at], segment_ids[at], positions[at] = segment.tokens, place.slot[s] + 1, np.arange(length)
            masks["completion"][at], masks["prompt"][at] = segment.supervised, ~segment.supervised
            masks["completion"][at[0], start] = masks["prompt"][at[0], start] = False
            for of_segments in (segment.per_token, *(of_example[s] for of_example in columns)):
                for name, values in of_segments.items():
                    per_token[name][at] = vectors[values] if name == MEDIA else values
        _set_roles(roles, place, example, caps)
        _set_columns(per_example, place.n, example)
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
        "media": media,
    }
    return Batch(**arrays, block_rows=caps.block_rows, slots=caps.slots, max_segment=caps.max_segment)


def _empty(shape: tuple[int, int], *layouts: Layout) -> dict[str, np.ndarray]:
    """Per-token columns where nothing lies yet."""
    return {
        name: np.full((*shape, *more), ABSENT.get(name, 0), dtype)
        for layout in layouts
        for name, (dtype, more) in layout.items()
    }


def scatter(dataset: Dataset, caps: Caps, blocks: Blocks, values: np.ndarray, column: RaggedColumn) -> None:
    """The inverse of reading a column: `[R, S]` values to their examples' segments."""
    for place in places(caps, blocks):
        for s, length in enumerate(dataset.lengths.of(place.example)):
            row = values[place.block * caps.block_rows + place.row[s]]
            column.write(place.example, s, row[place.start[s] : place.start[s] + length])


def _set_roles(roles: Mapping[str, np.ndarray], place: Place, example: Example, caps: Caps) -> None:
    where = [*(place.row * caps.slots + place.slot).tolist(), -1]
    for name, index in example.roles.items():
        if isinstance(index, list):
            roles[name][place.n, : len(index)] = [where[i] for i in index]
        else:
            roles[name][place.n] = where[index]


def _set_columns(columns: Mapping[str, np.ndarray], n: int, example: Example) -> None:
    for name, array in columns.items():
        laid_out(array[n, ...], example.columns[name])
