"""Keeps background threads from printing what the caller gets as an exception anyway."""

from __future__ import annotations

import contextlib
import gc
import logging
import sys
import warnings
from collections.abc import Iterator


class _Drop(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return False


class _DropOrbax(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return "orbax" not in record.pathname


def quiet_orbax() -> None:
    """Drop Orbax's log records: it logs a traceback per thread for a failure that `wait` raises."""
    logger = logging.getLogger("absl")
    if not any(isinstance(f, _DropOrbax) for f in logger.filters):
        logger.addFilter(_DropOrbax())


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop reports of abandoned coroutines while reading: one damaged file abandons the reads of all other leaves."""
    drop, logger, hook = _Drop(), logging.getLogger("asyncio"), sys.unraisablehook
    logger.addFilter(drop)
    sys.unraisablehook = lambda _: None
    try:
        yield
    except BaseException:
        # The abandoned coroutines report when they are collected: do that here rather than at some later moment.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            gc.collect()
        raise
    finally:
        logger.removeFilter(drop)
        sys.unraisablehook = hook
