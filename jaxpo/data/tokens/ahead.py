"""A step that takes long and holds no lock of the interpreter, one item ahead on a thread."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def one_ahead(items: Iterable[T], make: Callable[[T], U], *, cores: int = CORES) -> Iterator[tuple[T, U]]:
    """Every item with what `make` returns for it, in order; that of the next is made while this one is used.

    At most two items are held, and items are taken in the same order on a single core, where a thread would only cost.
    An error of `items` comes when all items before it have been given.
    """
    source = iter(items)
    with ThreadPoolExecutor(1) as thread:

        def begun(item: T) -> tuple[T, Callable[[], U]]:
            return item, thread.submit(make, item).result if cores > 1 else partial(make, item)

        current = next(map(begun, source), None)
        while current is not None:
            following = late = None
            try:
                following = next(map(begun, source), None)
            except Exception as error:  # raised below, in its turn
                late = error
            item, made = current
            yield item, made()
            if late is not None:
                raise late
            current = following
