"""A polite stop: the signal is noted, the current step finishes, the state is saved."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

import jax
from jax.experimental import multihost_utils


class Preempted(Exception):
    """Training stopped on a signal after saving; `exit_code` is 128 + the signal's number (143 for SIGTERM)."""

    def __init__(self, message: str, signum: int):
        super().__init__(message)
        self.exit_code = 128 + signum


class Stop:
    """Notes SIGTERM and SIGINT between entry and exit. A second signal is not held back.

    A signal that the process was started to ignore stays ignored: a shell starts background jobs without job control
    with SIGINT ignored, so that Ctrl-C ends what runs in the foreground only. Such a run is stopped by SIGTERM.

    With several processes a signal reaches them at different steps, or only one of them. They stop at the step on which
    JAX's preemption service makes them agree: `jax.distributed` starts it and it gets SIGTERM. SIGINT is left alone.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if jax.process_count() > 1:
            return self
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) != signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def requested(self, step: int) -> int | None:
        """The signal to stop for after `step`, or None; the same answer on every process."""
        if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
            self.signum = signal.SIGTERM
        return self.signum

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signum = number
        self._restore()

    def _restore(self) -> None:
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, handler)


def stopper(stop: Stop, stage: str) -> Callable[[], None]:
    """A check for stages without steps, between pieces of work that are safe on disk: it raises `Preempted`."""

    def check() -> None:
        signum = stop.requested(0)
        if signum is not None:
            raise Preempted(f"stage {stage}: stopped; the same command goes on from here", signum)

    return check
