"""Best-fit packing of examples into blocks of rows. numpy only; deterministic; block shapes are fixed beforehand."""

from __future__ import annotations

import bisect
from array import array
from dataclasses import dataclass

import numpy as np

from jaxpo.data.tokens.store import Lengths
from jaxpo.errors import ConfigError

WINDOW = 256
# A block this full is closed at the end of its window; emptier ones stay open for the next two.
FULL = 0.98
MAX_AGE = 2
UNLIMITED = 1 << 30


@dataclass(frozen=True)
class Caps:
    """The static shape of every block, the same in every epoch.

    Attributes:
      row_length: S, positions per row.
      block_rows: rows per block.
      slots: M, segments per row.
      examples: examples per block.
      max_segment: T, bound on every segment's length.
      media_rows, media_length: rows of the block's second grid, and patches per row; 0 without media.
    """

    row_length: int
    block_rows: int
    slots: int
    examples: int
    max_segment: int
    media_rows: int = 0
    media_length: int = 0

    @property
    def patches_per_row(self) -> float:
        """Of media beside each row of tokens, padding included."""
        return self.media_rows * self.media_length / self.block_rows


@dataclass(frozen=True)
class Laid:
    """Where segments, or media, lie in their blocks: int32, indexed like `Lengths.values`; -1 = not in this epoch.

    Attributes:
      row: within the block.
      slot: number within the row.
      start: first position.
    """

    row: np.ndarray
    slot: np.ndarray
    start: np.ndarray

    @classmethod
    def nowhere(cls, parts: int) -> Laid:
        """Nothing is placed yet."""
        return cls(*(np.full(parts, -1, np.int32) for _ in range(3)))

    def of(self, lengths: Lengths, example: int) -> Laid:
        """One example's share."""
        at = slice(lengths.offsets[example], lengths.offsets[example + 1])
        return Laid(self.row[at], self.slot[at], self.start[at])


@dataclass(frozen=True)
class Packed:
    """Where everything lies in one epoch.

    Attributes:
      blocks: int32 `[blocks, examples]` example numbers, -1 = none.
      segments, media: of the examples.
    """

    blocks: np.ndarray
    segments: Laid
    media: Laid

    def fill(self, lengths: Lengths, caps: Caps) -> float:
        """Share of row positions that hold a token."""
        placed = lengths.values[self.segments.row >= 0].sum()
        return float(placed) / max(len(self.blocks) * caps.block_rows * caps.row_length, 1)


def random_order(seed: int, epoch: int, n: int, stream: int = 0) -> np.ndarray:
    """A permutation of 0..n-1 that depends on its arguments only: raw Philox bits, whose values numpy guarantees."""
    key = np.asarray([seed & (2**64 - 1), epoch + (stream << 48)], np.uint64)
    return np.argsort(np.random.Philox(key=key).random_raw(n), kind="stable")


def pack(lengths: Lengths, order: np.ndarray, caps: Caps, *, seed: int | None = None, epoch: int = 0) -> Packed:
    """Best-fit inside consecutive windows of 256 examples; what is left of a window joins the next.

    Args:
      lengths: of all examples; each fits in an empty block (`choose_caps` sees to it), and so do its media.
      order: example numbers in the order of training.
      caps: block shape.
      seed: shuffles the blocks that a window closes, so that long examples do not always come first; None keeps them in
        the order of their earliest example.
    """
    packer = _Packer(lengths, caps)
    rank = None
    if seed is None:
        rank = np.empty(len(lengths), np.int64)
        rank[order] = np.arange(len(order))
    # Numbers of examples block after block, four bytes each: lists of them would take forty.
    held, counts = array("i"), array("i")
    for i, start in enumerate(range(0, len(order), WINDOW)):
        for example in packer.longest_first(order[start : start + WINDOW]):
            packer.place(example)
        closed = packer.close(everything=start + WINDOW >= len(order))
        if rank is not None:
            closed.sort(key=lambda block: min(rank[block]))
        else:
            closed = [closed[j] for j in random_order(seed or 0, epoch, len(closed), stream=i + 1)]
        for block in closed:
            held.extend(block)
            counts.append(len(block))
    return Packed(_table(held, counts, caps), packer.segments.laid, packer.media.laid)


def _table(held: array[int], counts: array[int], caps: Caps) -> np.ndarray:
    """`Packed.blocks` from the examples of all blocks in a row, and how many each of them holds."""
    width = caps.examples if caps.examples < UNLIMITED else max(counts, default=1)
    table, at = np.full((len(counts), width), -1, np.int32), 0
    for b, count in enumerate(counts):
        table[b, :count] = held[at : at + count]
        at += count
    return table


class Rows:
    """One grid of an open block: free positions of each row, and the parts it holds."""

    __slots__ = ("free", "length", "used")

    def __init__(self, rows: int, length: int):
        self.length = length
        self.free = [length] * rows
        self.used = [0] * rows

    def fit(self, sizes: list[int], slots: int) -> list[int] | None:
        """The tightest row for each part in turn; None when one has no row."""
        free, used = self.free.copy(), self.used.copy()
        rows = []
        for size in sizes:
            best = -1
            for r, room in enumerate(free):
                if room >= size and used[r] < slots and (best < 0 or room < free[best]):
                    best = r
            if best < 0:
                return None
            free[best] -= size
            used[best] += 1
            rows.append(best)
        return rows


class _Block:
    """An open block: its two grids, and the examples it holds."""

    __slots__ = ("age", "examples", "media", "segments")

    def __init__(self, caps: Caps):
        self.segments = Rows(caps.block_rows, caps.row_length)
        self.media = Rows(caps.media_rows, caps.media_length)
        self.examples: list[int] = []
        self.age = 0


class _Parts:
    """The segments, or the media, of all examples, and their places so far."""

    def __init__(self, lengths: Lengths, slots: int):
        self.lengths, self.slots = lengths, slots
        self.laid = Laid.nowhere(len(lengths.values))
        self._ends = np.concatenate([[0], np.cumsum(lengths.values, dtype=np.int64)])

    def totals(self, examples: np.ndarray) -> np.ndarray:
        """Positions that each example takes."""
        offsets = self.lengths.offsets
        return self._ends[offsets[examples + 1]] - self._ends[offsets[examples]]

    def longest_first(self, example: int) -> tuple[list[int], list[int]]:
        """An example's parts in the order in which they are placed, and their sizes in it."""
        sizes = self.lengths.of(example).tolist()
        order = sorted(range(len(sizes)), key=lambda j: -sizes[j])
        return order, [sizes[j] for j in order]

    def put(self, example: int, order: list[int], sizes: list[int], rows: list[int], into: Rows) -> None:
        """Add an example's parts to rows of a block."""
        first, laid = int(self.lengths.offsets[example]), self.laid
        for j, size, r in zip(order, sizes, rows, strict=True):
            laid.row[first + j], laid.slot[first + j] = r, into.used[r]
            laid.start[first + j] = into.length - into.free[r]
            into.free[r] -= size
            into.used[r] += 1


class _Packer:
    """Open blocks, sorted by free positions, and the place of everything so far."""

    def __init__(self, lengths: Lengths, caps: Caps):
        self.caps = caps
        nothing = Lengths(np.zeros(len(lengths) + 1, np.int64), np.zeros(0, np.int32))
        self.segments = _Parts(lengths, caps.slots)
        self.media = _Parts(lengths.media or nothing, UNLIMITED)
        self._with_media = lengths.media is not None
        self._blocks: dict[int, _Block] = {}
        self._by_free: list[tuple[int, int]] = []
        self._opened = 0

    def longest_first(self, examples: np.ndarray) -> list[int]:
        """By what they take of a block: of its positions or, where that is more, of its patches."""
        caps, taken = self.caps, self.segments.totals(examples)
        if self._with_media:
            of_media = self.media.totals(examples) / (caps.media_rows * caps.media_length)
            taken = np.maximum(taken / (caps.block_rows * caps.row_length), of_media)
        return examples[np.argsort(-taken, kind="stable")].tolist()

    def place(self, example: int) -> None:
        order, sizes = self.segments.longest_first(example)
        media_order, media = self.media.longest_first(example) if self._with_media else ([], [])
        block, rows, media_rows = self._find(sizes, media)
        self.segments.put(example, order, sizes, rows, block.segments)
        self.media.put(example, media_order, media, media_rows, block.media)
        block.examples.append(example)

    def _fit(self, block: _Block, sizes: list[int], media: list[int]) -> tuple[list[int], list[int]] | None:
        """Rows of the block for segments and media; None when either lacks one."""
        rows = block.segments.fit(sizes, self.segments.slots)
        if rows is None or not media:
            return None if rows is None else (rows, [])
        media_rows = block.media.fit(media, self.media.slots)
        return None if media_rows is None else (rows, media_rows)

    def _find(self, sizes: list[int], media: list[int]) -> tuple[_Block, list[int], list[int]]:
        """The fullest open block that takes all this (else a new one), moved to its new place in the order."""
        need = sum(sizes)
        for i in range(bisect.bisect_left(self._by_free, (need, -1)), len(self._by_free)):
            free, number = self._by_free[i]
            found = self._fit(self._blocks[number], sizes, media)
            if found is not None:
                del self._by_free[i]
                break
        else:
            number, self._opened = self._opened, self._opened + 1
            block = self._blocks[number] = _Block(self.caps)
            free, found = sum(block.segments.free), self._fit(block, sizes, media)
            if found is None:
                raise ConfigError(
                    f"an example with segments of {sizes} tokens and media of {media} patches does not fit a block of "
                    f"{self.caps}."
                )
        block = self._blocks[number]
        if len(block.examples) + 1 < self.caps.examples:
            bisect.insort(self._by_free, (free - need, number))
        return block, *found

    def close(self, *, everything: bool) -> list[list[int]]:
        """Take out the blocks that are full, old, or all of them; in the order they were opened."""
        small = (1 - FULL) * self.caps.block_rows * self.caps.row_length
        done = set()
        for number, block in self._blocks.items():
            block.age += 1
            if (
                everything
                or block.age > MAX_AGE
                or sum(block.segments.free) <= small
                or len(block.examples) >= self.caps.examples
            ):
                done.add(number)
        self._by_free = [entry for entry in self._by_free if entry[1] not in done]
        return [self._blocks.pop(number).examples for number in sorted(done)]
