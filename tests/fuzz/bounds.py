"""What reading one file may take of time and memory, watched while it is read."""

from __future__ import annotations

import contextlib
import resource
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SECONDS, MEMORY, ADDRESSES = 5.0, 256 << 20, 4 << 30
"""Processor seconds; bytes that are really used; bytes of addresses, beyond which nothing more is given."""
_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


class Hung(BaseException):
    """Reading took too long; no `except Exception` may hold it up."""


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """AssertionError when the block takes more processor time or memory than a small file is worth."""

    def stop(*_: Any) -> None:
        raise Hung(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    start, used = time.process_time(), _begin()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        taken, peak = time.process_time() - start, _status("VmHWM")
    assert taken < SECONDS, f"took {taken:.1f} s"
    assert peak - used < MEMORY, f"took {(peak - used) >> 20} MiB"


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """What would take the machine's memory fails at once instead."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + ADDRESSES, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _begin() -> int:
    """Forget the highest use of memory so far; returns the present one."""
    if not _CLEAR.exists():
        return sys.maxsize  # another system: time alone is watched
    _CLEAR.write_text("5")
    return _status("VmRSS")


def _status(name: str) -> int:
    if not _STATUS.exists():
        return 0
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) << 10
