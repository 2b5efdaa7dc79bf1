"""The sources of a mixture as stretches of one data set: which examples and tokens each of them has."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxpo.config import Mixed
from jaxpo.data.tokens.index import PIECE
from jaxpo.data.tokens.store import SPAN, ExampleStore
from jaxpo.errors import DataError


@dataclass(frozen=True)
class Share:
    """One source: a stretch of the dataset's examples, and what it is to give.

    Attributes:
      first: its first example; it has `examples` of them with `tokens` tokens.
      weight: its share of the tokens, relative to the other sources'.
      end_weight: what its weight becomes; None = it stays.
      max_epochs: times that it may be passed through; None = any.
    """

    name: str
    first: int
    examples: int
    tokens: int
    weight: float
    max_epochs: float | None = None
    end_weight: float | None = None


def shares_of(store: ExampleStore, sources: Sequence[tuple[str, Mixed, Sequence[Path]]]) -> tuple[Share, ...]:
    """The sources with their files, which the store holds in this order.

    Raises:
      DataError: a source of which no example is left.
    """
    counts = _examples_of_files(store, sum(len(files) for *_, files in sources))
    found: list[Share] = []
    at, file = 0, 0
    for name, mixed, files in sources:
        n = sum(counts[file : file + len(files)])
        tokens = sum(int(store.lengths.values[a:b].sum(dtype=np.int64)) for a, b in _spans(store, at, at + n))
        if not n:
            remedy = "Leave the source out of data.mix, or give it rows that can be used."
            raise DataError(f"source {name!r} of data.mix has no example.", file=files[0], remedy=remedy)
        found.append(Share(name, at, n, tokens, mixed.weight, mixed.max_epochs, mixed.end_weight))
        at, file = at + n, file + len(files)
    return tuple(found)


def as_counts(shares: Sequence[Share]) -> Mapping[str, Mapping[str, float]]:
    """What a run keeps of each source: examples, tokens, its share of the tokens that are trained on."""
    total = sum(share.weight for share in shares)
    return {s.name: {"examples": s.examples, "tokens": s.tokens, "share": s.weight / total} for s in shares}


def _examples_of_files(store: ExampleStore, files: int) -> list[int]:
    """Of a store that an earlier version wrote, they are counted."""
    known = store.meta.get("examples_of_files")
    if known is None:
        known = [0] * files
        for start in range(0, len(store), SPAN):
            for example in store.read(range(start, min(start + SPAN, len(store)))):
                known[example.file] += 1
    return [*known, *[0] * (files - len(known))]


def _spans(store: ExampleStore, start: int, stop: int) -> list[tuple[int, int]]:
    """Stretches of the length index that few numbers at a time lie in."""
    edges = [*range(start, stop, PIECE), stop]
    at = [int(store.lengths.offsets[edge]) for edge in edges]
    return list(itertools.pairwise(at))
