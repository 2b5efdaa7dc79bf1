"""The shape of a dataset's blocks, from the lengths of its examples alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from jaxpo.data.packing.best_fit import UNLIMITED, Caps, Packed, Rows, pack
from jaxpo.data.packing.orders import PART, shuffled
from jaxpo.data.tokens.store import Lengths
from jaxpo.errors import ConfigError

SAMPLE = 4096
GOAL = 0.95
SPARED = 0.005
"""Share of fill that fewer slots, or fewer rows of patches, may cost."""
ALIKE = 0.02
"""Share of fill that smaller blocks may cost: a step then has more of them for devices and microbatches to share."""
SHARERS = 8
"""A step has blocks enough for 2, 4 and 8 devices alike, as far as its rows and the widest example allow it."""
LOW = 0.85
"""A smaller share of fill is worth a word about how to raise it."""


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


def rows_alone(lengths: Lengths, row_length: int, slots: int = UNLIMITED) -> tuple[np.ndarray, int]:
    """Rows that each example needs on its own `[E]`, and the most segments that one of them then holds."""
    rows, most = np.zeros(len(lengths), np.int64), 1
    counts = np.diff(lengths.offsets)
    for k, chosen in _of_one_count(counts):
        sizes = -np.sort(-lengths.values[lengths.offsets[chosen][:, None] + np.arange(k)].astype(np.int64), axis=1)
        picks, used = _alone(sizes, row_length, k, slots)
        if picks is None:
            raise ConfigError(f"a segment of {sizes.max()} tokens is longer than data.row_length={row_length}.")
        rows[chosen], most = picks.max(1) + 1, max(most, used)
    return rows, most


def _most_alone(lengths: Lengths, row_length: int, slots: int) -> tuple[int, int]:
    """The most rows that an example needs on its own, and the most segments that a row then holds."""
    least, most = 1, 1
    for start in range(0, len(lengths), PART):
        rows, used = rows_alone(lengths.part(start, min(start + PART, len(lengths))), row_length, slots)
        least, most = max(least, int(rows.max(initial=1))), max(most, used)
    return least, most


def _of_one_count(counts: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Examples with one number of segments, that number first; few at a time, so that arrays over them are small."""
    for k in np.unique(counts[counts > 0]):
        chosen = np.flatnonzero(counts == k)
        yield from ((int(k), chosen[start : start + SAMPLE]) for start in range(0, len(chosen), SAMPLE))


def choose_caps(
    lengths: Lengths,
    row_length: int,
    *,
    block_rows: int | None,
    single: bool,
    rows_per_step: int,
    media_rows: int | None = None,
    media_length: int | None = None,
) -> tuple[Caps, float]:
    """Block shape from the length index and a step's rows alone, and the share of positions it fills on a sample.

    What computes a step has no say: the same rows are packed into the same batches on any number of devices.

    Args:
      block_rows: given, or None = the smallest whose fill is within 2% of the best, of those up to the first that fills
        95%.
      single: one segment per row.
      rows_per_step: blocks divide it.
      media_rows, media_length: given, or None = as many as keep the rows of tokens full, and the longest medium.

    Raises:
      ConfigError: no block size fits.
    """
    sample = _sample(lengths)
    text = replace(lengths, media=None)
    alone, most = _most_alone(text, row_length, 1 if single else UNLIMITED)
    candidates = _candidates(alone, block_rows, rows_per_step)
    longest = int(lengths.values.max(initial=1))
    segment = min(-(-longest // 16) * 16, row_length)
    tried: list[tuple[Caps, float]] = []
    few, order = text.take(sample), np.arange(len(sample))
    for rows in candidates:
        caps = Caps(row_length, rows, 1 if single else UNLIMITED, UNLIMITED, segment)
        if not single:
            caps = replace(caps, slots=_slots(few, order, caps, most))
        packed = pack(few, order, caps)
        fill = packed.fill(few, caps)
        tried.append((replace(caps, examples=int((packed.blocks >= 0).sum(1).max(initial=1))), fill))
        if fill >= GOAL or single:
            break
    enough = max(fill for _, fill in tried) - ALIKE
    best = next(found for found in tried if found[1] >= enough)
    return best if lengths.media is None else _with_media(lengths, sample, best[0], media_rows, media_length)


def fill_of(lengths: Lengths, caps: Caps) -> float:
    """The share of positions that a block shape fills on a sample."""
    few = lengths.take(_sample(lengths))
    return pack(few, np.arange(len(few)), caps).fill(few, caps)


def fuller(lengths: Lengths, caps: Caps, rows_per_step: int, fill: float) -> tuple[int, float] | None:
    """Larger blocks of a step that fill over 2% more than `fill` does: their rows and share; None where none do."""
    tried = []
    for rows in range(caps.block_rows + 1, min(rows_per_step, 8 * caps.block_rows) + 1):
        if rows_per_step % rows == 0:
            _, share = choose_caps(lengths, caps.row_length, block_rows=rows, single=False, rows_per_step=rows_per_step)
            tried.append((rows, share))
    enough = max((share for _, share in tried), default=0) - ALIKE
    best = next((found for found in tried if found[1] >= enough), (caps.block_rows, fill))
    return best if best[1] > fill + ALIKE else None


def shared_problems(rows_per_step: int, block_rows: int, sharers: int, *, begun: bool = False) -> list[str]:
    """Why microbatches, devices and processes cannot each get whole blocks of a step, if so; names what can.

    Args:
      sharers: microbatches times data-parallel devices, a multiple of the processes.
      begun: the blocks are those that a stage began with.
    """
    blocks, rest = divmod(rows_per_step, block_rows)
    those = f"{block_rows} row" + "s" * (block_rows > 1)
    if rest or not blocks:
        near = sorted({max(blocks, 1) * block_rows, (blocks + 1) * block_rows})
        return [f"rows_per_step={rows_per_step} is not whole blocks of {those}; use {' or '.join(map(str, near))}."]
    if blocks % sharers == 0:
        return []
    can = ", ".join(str(n) for n in range(1, blocks + 1) if blocks % n == 0)
    smaller = ", or data.block_rows smaller if no example needs as many rows" if block_rows > 1 else ""
    remedy = (
        "The stage began with these blocks, which stay."
        if begun
        else f"Or make rows_per_step a multiple of {block_rows * sharers}{smaller}."
    )
    return [
        f"rows_per_step={rows_per_step} is {blocks} block{'s' * (blocks > 1)} of {those}, which {sharers} cannot share "
        f"evenly: gradient_accumulation_steps times data-parallel devices must be one of {can}. {remedy}"
    ]


def _sample(lengths: Lengths) -> np.ndarray:
    """Numbers of some examples, the same ones each time."""
    return np.sort(shuffled(0, 0, len(lengths), 0, min(SAMPLE, len(lengths))))


def _candidates(least: int, block_rows: int | None, rows_per_step: int) -> list[int]:
    """Rows of a block that are tried, in this order: divisors of a step's rows, as fair to 8 devices as any."""
    if block_rows is not None:
        if block_rows < least:
            raise ConfigError(f"data.block_rows={block_rows}, but the widest example needs {least} rows: raise it.")
        return [block_rows]
    if rows_per_step < least:
        raise ConfigError(
            f"rows_per_step={rows_per_step}, but the widest example needs {least} rows: make it at least {least}, or "
            "lower data.max_length."
        )
    whole = [size for size in range(least, rows_per_step + 1) if rows_per_step % size == 0]
    fair = {size: math.gcd(rows_per_step // size, SHARERS) for size in whole}
    first = max(whole, key=lambda size: (fair[size], -size))
    # Doubling leaves what a step can be divided by besides: 24 rows serve 3 devices as well.
    doubled = [first * 2**i for i in range(11) if first * 2**i <= max(4 * least, 8)]
    return [first, *(size for size in doubled if size > first and fair.get(size) == fair[first])]


def _slots(lengths: Lengths, sample: np.ndarray, caps: Caps, least: int) -> int:
    """Few enough that `[R, M, T]` stays small, unless that would cost fill."""
    free = pack(lengths, sample, caps)
    per_row = np.sort(_row_counts(lengths, free, caps))
    few = max(least, int(np.ceil(np.quantile(per_row, 0.98))))
    limited = pack(lengths, sample, replace(caps, slots=few))
    good = limited.fill(lengths, caps) >= free.fill(lengths, caps) - SPARED
    return few if good else max(least, int(per_row.max()))


def _row_counts(lengths: Lengths, packed: Packed, caps: Caps) -> np.ndarray:
    """Segments in each row that has any."""
    block_of = np.full(len(lengths), -1, np.int64)
    b, column = np.nonzero(packed.blocks >= 0)
    block_of[packed.blocks[b, column]] = b
    of_segment = np.repeat(block_of, np.diff(lengths.offsets))
    placed = packed.segments.row >= 0
    counts = np.bincount(of_segment[placed] * caps.block_rows + packed.segments.row[placed])
    return counts[counts > 0]


def _with_media(
    lengths: Lengths, sample: np.ndarray, caps: Caps, rows: int | None, length: int | None
) -> tuple[Caps, float]:
    """A grid for media that hardly ever keeps an example out of a block of tokens, and what the two then fill."""
    assert lengths.media is not None
    length = length or -(-int(lengths.media.values.max()) // 16) * 16
    least = int(rows_alone(lengths.media, length)[0].max())
    free = pack(replace(lengths, media=None), sample, caps)
    needed = [_media_rows(lengths.media, held[held >= 0], length) for held in free.blocks]
    few = rows or max(least, int(np.ceil(np.quantile(needed, 0.98))))
    for media_rows in (few, max(least, *needed)):
        found = replace(caps, media_rows=media_rows, media_length=length)
        fill = pack(lengths, sample, found).fill(lengths, found)
        if rows is not None or fill >= free.fill(lengths, caps) - SPARED:
            break
    return found, fill


def _media_rows(media: Lengths, examples: np.ndarray, length: int) -> int:
    """Rows of patches for the media of these examples, the longest first into the tightest row."""
    sizes = np.sort(np.concatenate([media.of(e) for e in examples]))[::-1]
    rows = Rows(len(sizes), length)
    return 1 + max(rows.fit(sizes.tolist(), UNLIMITED) or [0])
