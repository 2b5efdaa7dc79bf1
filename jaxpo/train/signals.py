"""A polite stop: the signal is noted, what is under way ends at a safe place, and the user is told what that is."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any

import jax
from jax.experimental import multihost_utils

from jaxpo.sharding.turns import preemption_noticed, works_alone
from jaxpo.train import watchman
from jaxpo.train.watchman import AGAIN, Watchman


class Preempted(BaseException):
    """The run stopped on a signal; `exit_code` is 128 + the signal's number (143 for SIGTERM).

    No `Exception`: a library that retries what failed must not go on instead.
    """

    def __init__(self, message: str, signum: int):
        super().__init__(message)
        self.exit_code = 128 + signum


class Stop:
    """SIGTERM and SIGINT between entry and exit: `Preempted` at once, or where the work is at a safe place.

    A second Ctrl-C ends the process, wherever it is (`Watchman` says what counts as a second one). SIGHUP is ignored:
    a run outlives its terminal.

    A signal that the process was started to ignore stays ignored: a shell starts background jobs without job control
    with SIGINT ignored, so that Ctrl-C ends what runs in the foreground only. Such a run is stopped by SIGTERM.

    With several processes a signal reaches them at different steps, or only one of them. They stop at the step on which
    JAX's preemption service makes them agree: `jax.distributed` starts it and it gets SIGTERM. SIGINT is left alone.

    Args:
      say: gets the line that says what is waited for, on a thread of its own.

    Attributes:
      signum: the signal that was noted, or None.
      activity: what is under way, in words that follow "waiting for".
    """

    def __init__(self, say: Callable[[str], None] = print) -> None:
        self.signum: int | None = None
        self._noted = 0.0
        self._asked = 0
        self.activity = "what has begun"
        self._later = False
        self._previous: dict[int, Any] = {}
        self._held = contextlib.ExitStack()
        self._watchman = Watchman(lambda: say(f"stopping: waiting for {self.activity}; {AGAIN}"), Preempted)

    def __enter__(self) -> Stop:
        handlers: dict[int, Any] = {signal.SIGHUP: signal.SIG_IGN}
        if jax.process_count() == 1:
            handlers |= {signal.SIGTERM: self._note, signal.SIGINT: self._note}
            self._held.enter_context(self._watchman)
        for number, handler in handlers.items():
            if signal.getsignal(number) != signal.SIG_IGN:
                self._previous[number] = signal.signal(number, handler)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()
        self._held.close()

    def requested(self, step: int) -> int | None:
        """The signal to stop for after `step`, or None; the same answer on every process.

        Where one process works and the others wait for it, it asks alone and gets its own answer.
        """
        if jax.process_count() > 1 and (preemption_noticed() if works_alone() else self._all_stop()):
            self.signum = signal.SIGTERM
        return self.signum

    def _all_stop(self) -> bool:
        """Whether the processes stop here; they ask equally often, and JAX agrees on the number of a question to come.

        Steps would not do: they begin anew with every stage, and what is agreed may lie beyond the end of this one.
        """
        self._asked += 1
        return bool(multihost_utils.reached_preemption_sync_point(self._asked))

    @contextlib.contextmanager
    def during(self, activity: str) -> Iterator[None]:
        """Say of the block, should a signal come, that it is waited for."""
        before, self.activity = self.activity, activity
        try:
            yield
        finally:
            self.activity = before

    @contextlib.contextmanager
    def later(self) -> Iterator[None]:
        """Within the block a signal is noted only; the block asks (`requested`) where it can stop."""
        before, self._later = self._later, True
        try:
            yield
        finally:
            self._later = before

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signum is not None and not self._watchman.dropped:
            if number == signal.SIGINT and time.monotonic() - self._noted > watchman.GRACE:
                self._restore()
                signal.raise_signal(number)
            return
        self.signum, self._noted = number, time.monotonic()
        self._watchman.dropped = False
        if not self._later:
            name = signal.Signals(number).name
            raise Preempted(
                f"stopped by {name} during {self.activity}; what was saved before that stays, and the same command "
                "goes on from there",
                number,
            )

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
