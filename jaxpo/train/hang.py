"""A step that hangs: what every thread does is written down, and the process ends if that was asked for."""

from __future__ import annotations

import faulthandler
import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import jax

from jaxpo.errors import TRY_AGAIN

T = TypeVar("T")
LOOKS = 8
"""How often within the limit the watch looks."""


class HangWatch:
    """A thread that notices when the steps of a stage stop coming.

    Time counts from `beat` to `beat`, by a clock that nobody sets. Once per hang the stacks of all threads go to a file
    and to standard error, with what is under way. It sees nothing where a library holds Python's interpreter lock.

    Args:
      seconds: the longest that a step may take; 0 = none is watched.
      folder: its `hung_steps.txt` gets the stacks, after those of earlier hangs; of several processes each has its own.
      doing: says what is under way, `Stop.activity`.
      ends: end the process then, with `TRY_AGAIN`, so that whoever started it starts it again.
    """

    def __init__(
        self,
        seconds: float,
        folder: Path,
        doing: Callable[[], str],
        *,
        ends: bool = False,
        leave: Callable[[int], Any] = os._exit,
    ):
        index = jax.process_index()
        self.file = folder / (f"hung_steps-{index}.txt" if index else "hung_steps.txt")
        self.seconds, self.ends = seconds, ends
        self._doing, self._leave = doing, leave
        self._last: float | None = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> HangWatch:
        if self.seconds > 0:
            self._thread = threading.Thread(target=self._watch, name="hang watch", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def beat(self) -> None:
        """A step begins; before the first beat nothing is watched, for the program is compiled."""
        self._last = time.monotonic()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside may take as long as it likes."""
        before, self._last = self._last, None
        try:
            yield
        finally:
            self._last = None if before is None else time.monotonic()

    def unwatched(self, do: Callable[..., T]) -> Callable[..., T]:
        """A function that does the same, `paused`."""

        @functools.wraps(do)
        def paused(*args: Any, **named: Any) -> T:
            with self.paused():
                return do(*args, **named)

        return paused

    def _watch(self) -> None:
        told: float | None = None
        while not self._ended.wait(self.seconds / LOOKS):
            last = self._last
            if last is not None and last != told and time.monotonic() - last > self.seconds:
                told = last
                self._tell()

    def _tell(self) -> None:
        what = f"process {jax.process_index()}: {self._doing()} has taken more than {self.seconds:g} s"
        try:
            with self.file.open("a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {what}\n")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
                file.write("\n")
            where = f"the stacks of its threads are in {self.file}"
        except OSError as error:  # the disk may be what hangs or is full
            where = f"{self.file} could not be written: {error.strerror}"
        print(f"\nwarning: {what}; {where}", file=sys.stderr, flush=True)
        faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)
        if self.ends:
            print(f"jaxpo: the process ends with {TRY_AGAIN}; the same command goes on", file=sys.stderr, flush=True)
            self._leave(TRY_AGAIN)
