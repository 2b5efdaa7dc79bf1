"""Values by number, made ahead of their use on threads."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

import grain

T = TypeVar("T")
THREADS, PREFETCH = 2, 4


def prefetched(n: int, make: Callable[[int], T]) -> Generator[T]:
    """`make(0), make(1), ...`, computed ahead on threads that end with the generator; their errors are raised here."""
    options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=PREFETCH)
    ahead = iter(grain.MapDataset.range(n).map(lambda i: make(int(i))).to_iter_dataset(options))
    with contextlib.closing(ahead):
        yield from ahead


class Ahead(Generic[T]):
    """A feed whose `steps` batches depend on their numbers alone, so that training's state is not waited for."""

    def __init__(self, steps: int, make: Callable[[int], T]):
        self._batches = prefetched(steps, make)

    def next(self, state: Any) -> T:
        return next(self._batches)

    def settle(self) -> None:
        """What is assembled ahead can be assembled again."""

    def close(self) -> None:
        self._batches.close()
