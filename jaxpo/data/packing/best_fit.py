"""Best-fit packing of examples into blocks of rows. numpy only; deterministic; block shapes are fixed beforehand."""

from __future__ import annotations

import bisect
from dataclasses import dataclass, replace

import numpy as np

from jaxpo.data.tokens.store import Lengths
from jaxpo.errors import ConfigError

WINDOW = 256
# A block this full is closed at the end of its window; emptier ones stay open for the next two.
FULL = 0.98
MAX_AGE = 2
SAMPLE = 4096
GOAL = 0.95
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
    """

    row_length: int
    block_rows: int
    slots: int
    examples: int
    max_segment: int


@dataclass(frozen=True)
class Packed:
    """Where everything lies in one epoch.

    Attributes:
      blocks: int32 `[blocks, examples]` example numbers, -1 = none.
      row, slot, start: int32 `[segments]` row within the block, slot, and first position of every segment, indexed like
        `Lengths.values`; -1 where the example is not part of this epoch.
    """

    blocks: np.ndarray
    row: np.ndarray
    slot: np.ndarray
    start: np.ndarray

    def fill(self, lengths: Lengths, caps: Caps) -> float:
        """Share of row positions that hold a token."""
        placed = lengths.values[self.row >= 0].sum()
        return float(placed) / max(len(self.blocks) * caps.block_rows * caps.row_length, 1)


def random_order(seed: int, epoch: int, n: int, stream: int = 0) -> np.ndarray:
    """A permutation of 0..n-1 that depends on its arguments only: raw Philox bits, whose values numpy guarantees."""
    key = np.asarray([seed & (2**64 - 1), epoch + (stream << 48)], np.uint64)
    return np.argsort(np.random.Philox(key=key).random_raw(n), kind="stable")


def pack(lengths: Lengths, order: np.ndarray, caps: Caps, *, seed: int | None = None, epoch: int = 0) -> Packed:
    """Best-fit inside consecutive windows of 256 examples; what is left of a window joins the next.

    Args:
      lengths: of all examples; each fits in an empty block (`choose_caps` sees to it).
      order: example numbers in the order of training.
      caps: block shape.
      seed: shuffles the blocks that a window closes, so that long examples do not always come first; None keeps them in
        the order of their earliest example.
    """
    packer = _Packer(lengths, caps)
    rank = np.empty(len(lengths), np.int64)
    rank[order] = np.arange(len(order))
    blocks: list[list[int]] = []
    for i, start in enumerate(range(0, len(order), WINDOW)):
        for example in packer.longest_first(order[start : start + WINDOW]):
            packer.place(example)
        closed = packer.close(everything=start + WINDOW >= len(order))
        if seed is None:
            blocks += sorted(closed, key=lambda held: min(rank[held]))
        else:
            blocks += [closed[j] for j in random_order(seed, epoch, len(closed), stream=i + 1)]
    width = caps.examples if caps.examples < UNLIMITED else max(map(len, blocks), default=1)
    table = np.full((len(blocks), width), -1, np.int32)
    for b, held in enumerate(blocks):
        table[b, : len(held)] = held
    return Packed(table, packer.row, packer.slot, packer.start)


class _Block:
    """An open block: free positions and segments of each row, and the examples it holds."""

    __slots__ = ("age", "examples", "free", "used")

    def __init__(self, caps: Caps):
        self.free = [caps.row_length] * caps.block_rows
        self.used = [0] * caps.block_rows
        self.examples: list[int] = []
        self.age = 0

    def fit(self, sizes: list[int], slots: int) -> list[int] | None:
        """The tightest row for each segment in turn; None when one has no row."""
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


class _Packer:
    """Open blocks, sorted by free positions, and the place of every segment so far."""

    def __init__(self, lengths: Lengths, caps: Caps):
        self.lengths, self.caps = lengths, caps
        self.row, self.slot, self.start = (np.full(len(lengths.values), -1, np.int32) for _ in range(3))
        self._blocks: dict[int, _Block] = {}
        self._by_free: list[tuple[int, int]] = []
        self._opened = 0
        self._ends = np.concatenate([[0], np.cumsum(lengths.values, dtype=np.int64)])

    def longest_first(self, examples: np.ndarray) -> list[int]:
        offsets = self.lengths.offsets
        totals = self._ends[offsets[examples + 1]] - self._ends[offsets[examples]]
        return examples[np.argsort(-totals, kind="stable")].tolist()

    def place(self, example: int) -> None:
        first, caps = int(self.lengths.offsets[example]), self.caps
        sizes = self.lengths.of(example).tolist()
        order = sorted(range(len(sizes)), key=lambda j: -sizes[j])
        block, rows = self._find([sizes[j] for j in order])
        for j, r in zip(order, rows, strict=True):
            self.row[first + j], self.slot[first + j] = r, block.used[r]
            self.start[first + j] = caps.row_length - block.free[r]
            block.free[r] -= sizes[j]
            block.used[r] += 1
        block.examples.append(example)

    def _find(self, sizes: list[int]) -> tuple[_Block, list[int]]:
        """The fullest open block that takes these segments (else a new one), moved to its new place in the order."""
        need = sum(sizes)
        for i in range(bisect.bisect_left(self._by_free, (need, -1)), len(self._by_free)):
            free, number = self._by_free[i]
            rows = self._blocks[number].fit(sizes, self.caps.slots)
            if rows is not None:
                del self._by_free[i]
                break
        else:
            number, self._opened = self._opened, self._opened + 1
            block = self._blocks[number] = _Block(self.caps)
            free, rows = sum(block.free), block.fit(sizes, self.caps.slots)
            if rows is None:
                raise ConfigError(f"an example with segments of {sizes} tokens does not fit a block of {self.caps}.")
        block = self._blocks[number]
        if len(block.examples) + 1 < self.caps.examples:
            bisect.insort(self._by_free, (free - need, number))
        return block, rows

    def close(self, *, everything: bool) -> list[list[int]]:
        """Take out the blocks that are full, old, or all of them; in the order they were opened."""
        small = (1 - FULL) * self.caps.block_rows * self.caps.row_length
        done = set()
        for number, block in self._blocks.items():
            block.age += 1
            if (
                everything
                or block.age > MAX_AGE
                or sum(block.free) <= small
                or len(block.examples) >= self.caps.examples
            ):
                done.add(number)
        self._by_free = [entry for entry in self._by_free if entry[1] not in done]
        return [self._blocks.pop(number).examples for number in sorted(done)]


def _alone(sizes: np.ndarray, row_length: int, rows: int, slots: int) -> tuple[np.ndarray | None, int]:
    """Best-fit of examples `[n, K]` (longest first) into `rows` empty rows each: row of each `[n, K]`, most per row."""
    n, k = sizes.shape
    room, used = np.full((n, rows), row_length), np.zeros((n, rows), np.int64)
    each, picks = np.arange(n), np.zeros((n, k), np.int64)
    for j in range(k):
        tight = np.where((room >= sizes[:, j : j + 1]) & (used < slots), room, UNLIMITED)
        picks[:, j] = tight.argmin(1)
        if (tight[each, picks[:, j]] == UNLIMITED).any():
            return None, 0
        room[each, picks[:, j]] -= sizes[:, j]
        used[each, picks[:, j]] += 1
    return picks, int(used.max(initial=0))


def smallest_block(lengths: Lengths, row_length: int, slots: int = UNLIMITED) -> tuple[int, int]:
    """Rows that the widest example needs on its own, and the most segments one of its rows then holds."""
    rows, most = 1, 1
    counts = np.diff(lengths.offsets)
    for k in np.unique(counts[counts > 0]):
        chosen = np.flatnonzero(counts == k)
        sizes = -np.sort(-lengths.values[lengths.offsets[chosen][:, None] + np.arange(k)].astype(np.int64), axis=1)
        picks, used = _alone(sizes, row_length, int(k), slots)
        if picks is None:
            raise ConfigError(f"a segment of {sizes.max()} tokens is longer than data.row_length={row_length}.")
        rows, most = max(rows, int(picks.max()) + 1), max(most, used)
    return rows, most


def choose_caps(
    lengths: Lengths, row_length: int, *, block_rows: int | None, single: bool, rows_per_shard: int | None
) -> tuple[Caps, float]:
    """Block shape from the length index alone, and the share of positions it fills on a sample.

    Args:
      block_rows: given, or None = the smallest that holds every example and fills >= 95%, else the fullest.
      single: one segment per row.
      rows_per_shard: blocks must divide it.

    Raises:
      ConfigError: no block size fits.
    """
    least, most = smallest_block(lengths, row_length, 1 if single else UNLIMITED)
    candidates = _candidates(least, block_rows, rows_per_shard)
    longest = int(lengths.values.max(initial=1))
    segment = min(-(-longest // 16) * 16, row_length)
    sample = np.sort(random_order(0, 0, len(lengths))[:SAMPLE])
    best: tuple[Caps, float] | None = None
    for rows in candidates:
        caps = Caps(row_length, rows, 1 if single else UNLIMITED, UNLIMITED, segment)
        if not single:
            caps = replace(caps, slots=_slots(lengths, sample, caps, most))
        packed = pack(lengths, sample, caps)
        fill = packed.fill(lengths, caps)
        caps = replace(caps, examples=int((packed.blocks >= 0).sum(1).max(initial=1)))
        if best is None or fill > best[1] + 1e-9:
            best = caps, fill
        if fill >= GOAL or single:
            break
    assert best is not None
    return best


def _candidates(least: int, block_rows: int | None, rows_per_shard: int | None) -> list[int]:
    if block_rows is not None:
        if block_rows < least:
            raise ConfigError(f"data.block_rows={block_rows}, but the widest example needs {least} rows: raise it.")
        sizes = [block_rows]
    else:
        # Powers of two divide what a device gets for most device counts, so the choice rarely depends on them.
        sizes = [least] + [2**i for i in range(11) if least < 2**i <= max(4 * least, 8)]
    if rows_per_shard is None:
        return sizes
    fitting = [size for size in sizes if rows_per_shard % size == 0]
    if not fitting and block_rows is None:
        fitting = [size for size in range(least, rows_per_shard + 1) if rows_per_shard % size == 0]
    if not fitting:
        wanted = block_rows or least
        raise ConfigError(
            f"each microbatch of each device gets {rows_per_shard} row(s), but examples are kept in blocks of {wanted} "
            f"rows: make rows_per_step a multiple of {wanted} for every device and microbatch, or lower max_length."
        )
    return fitting


def _slots(lengths: Lengths, sample: np.ndarray, caps: Caps, least: int) -> int:
    """Few enough that `[R, M, T]` stays small, unless that would cost more than half a percent of fill."""
    free = pack(lengths, sample, caps)
    per_row = np.sort(_row_counts(lengths, free, caps))
    few = max(least, int(np.ceil(np.quantile(per_row, 0.98))))
    limited = pack(lengths, sample, replace(caps, slots=few))
    good = limited.fill(lengths, caps) >= free.fill(lengths, caps) - 0.005
    return few if good else max(least, int(per_row.max()))


def _row_counts(lengths: Lengths, packed: Packed, caps: Caps) -> np.ndarray:
    """Segments in each row that has any."""
    block_of = np.full(len(lengths), -1, np.int64)
    b, column = np.nonzero(packed.blocks >= 0)
    block_of[packed.blocks[b, column]] = b
    of_segment = np.repeat(block_of, np.diff(lengths.offsets))
    placed = packed.row >= 0
    counts = np.bincount(of_segment[placed] * caps.block_rows + packed.row[placed])
    return counts[counts > 0]
