"""Synthetic examples with media, and a dataset that holds them in memory."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from jaxpo.data.tokens.dataset import Dataset
from jaxpo.data.tokens.examples import Example, Segment
from jaxpo.data.tokens.media import MEDIA, Patches
from jaxpo.data.tokens.store import Lengths

PAD, PLACE = 0, 1  # token ids: padding, and what stands where a vector goes


def tile(rows: int, columns: int, values: np.ndarray) -> Patches:
    """Patches of a grid with even sides, in connector order: vector (I, J) reads the four patches of its square."""
    squares = [(i, j) for i in range(0, rows, 2) for j in range(0, columns, 2)]
    order = [(i + a, j + b) for i, j in squares for b in (0, 1) for a in (0, 1)]
    positions = np.asarray([(r, c, rows, columns) for r, c in order], np.int32)
    return Patches(values.reshape(len(order), -1), positions)


def example(number: int, prompt: int, responses: list[int], grids: list[tuple[int, int]], values) -> Example:
    """Responses to a prompt that begins with the places of all media; every segment reads the same media.

    Args:
      values: `count -> [count, C]`, the next patches.
    """
    media = tuple(tile(r, c, values(r * c)) for r, c in grids)
    vectors = sum(map(len, media)) // 4
    given = [PLACE] * vectors + [2 + (7 * number + t) % 9 for t in range(prompt)]
    segments = []
    for k, length in enumerate(responses):
        tokens = np.asarray([*given, *(2 + (number + k + 3 * t) % 9 for t in range(length))], np.int32)
        marks = np.full(len(tokens), -1, np.int32)
        marks[:vectors] = np.arange(vectors)
        supervised = np.arange(len(tokens)) >= len(given)
        segments.append(Segment(tokens, supervised, {MEDIA: marks} if media else {}))
    roles = {"chosen": 0, "rejected": 1} if len(responses) == 2 else {"completion": 0}
    return Example(tuple(segments), roles, row=number + 1, media=media)


def in_memory(examples: list[Example], channels: int) -> Dataset:
    """A dataset whose store is the list."""
    lengths = Lengths.from_lists([[len(s.tokens) for s in e.segments] for e in examples])
    media = Lengths.from_lists([[len(m) for m in e.media] for e in examples])
    store = SimpleNamespace(
        lengths=Lengths(lengths.offsets, lengths.values, media),
        read=lambda numbers: [examples[int(n)] for n in numbers],
        directory=None,
    )
    return Dataset(
        store=store,  # type: ignore[arg-type]
        tokenizer=SimpleNamespace(pad_id=PAD),  # type: ignore[arg-type]
        type="preference",
        roles=dict.fromkeys(examples[0].roles, 0),
        columns={},
        names={},
        counts={},
        files=("rows.jsonl",),
        hash="in memory",
        per_token={MEDIA: (np.dtype(np.int32), ())},
        media={"image": (np.dtype(np.float32), (channels,))},
    )
