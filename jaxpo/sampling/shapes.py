"""The few shapes in which the engine's programs are compiled, and which of them a step takes."""

from __future__ import annotations

from collections.abc import Sequence

OVERHEAD = 64
"""What a call costs beside its columns, in columns; a matter of speed only."""


def read_shapes(slots: int, page: int, together: int, rows: int) -> tuple[tuple[int, int], ...]:
    """(rows, columns) in which prompts are read: from many short ones to a long one, at most `together` columns in all.

    Args:
      page: the columns are a multiple of it.
      rows: the rows are a multiple of it (devices that share them).
    """

    def shape(many: int, part: int) -> tuple[int, int]:
        return min(-(-many // rows) * rows, slots), max(page, together // part // page * page)

    alone = ((1, together), (1, 4), (1, 2), (1, 1))
    return tuple(sorted({shape(many, part) for many, part in (*alone, (4, together), (4, 4), (16, 16))}))


def scored_shapes(shapes: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Those in which prompts are read whose tokens' log-probs are wanted: fewer, as each is one program more."""
    return shapes[0], shapes[len(shapes) // 2]


def one_shape(slots: int, page: int, together: int, rows: int) -> tuple[tuple[int, int], ...]:
    """The one in which all prompts are read where nothing may depend on the shape: a few rows at a time."""
    many = min(-(-4 // rows) * rows, slots)
    return ((many, max(page, together // many // page * page)),)


def best_read(shapes: Sequence[tuple[int, int]], unread: Sequence[int]) -> tuple[int, int]:
    """The shape that reads the most of the first rows' tokens for what it costs."""

    def worth(shape: tuple[int, int]) -> float:
        rows, columns = shape
        return sum(min(n, columns) for n in unread[:rows]) / (rows * columns + OVERHEAD)

    return max(shapes, key=worth)


def write_sizes(slots: int, rows: int) -> tuple[int, ...]:
    """Numbers of rows that write together: `slots`, a quarter of it, and so on, and the smallest there is."""
    sizes, size = {slots, rows}, slots
    while size > rows:
        sizes.add(-(-size // rows) * rows)
        size //= 4
    return tuple(sorted(sizes))
