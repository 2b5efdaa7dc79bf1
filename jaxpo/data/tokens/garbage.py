"""Python's search for cycles while rows are tokenised: seldom, as rows make none and a search reads all that lives."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SELDOM = 10_000
"""Containers made and not yet freed after which cycles are looked for; Python's own number is 700.

A chunk of rows holds about as many. At 700 each chunk ages until the whole heap is read, modules and all: an eighth of
the time of tokenising.
"""
_SETTING = threading.Lock()


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Fewer searches until the block ends; none is made where they are switched off, and a larger number stays.

    The number is the whole process's: of threads that are in such a block at once, the first sets it, and back.
    """
    if not _SETTING.acquire(blocking=False):
        yield
        return
    before = gc.get_threshold()
    if before[0]:
        gc.set_threshold(max(SELDOM, before[0]), *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        _SETTING.release()
