"""An answer to Ctrl-C while the main thread is inside compiled code, where Python's handlers wait for its return."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

GRACE = 0.5
"""Seconds that the main thread has to end by itself before anything is said, or done."""
PAUSE = 0.02
"""Seconds after which a stop is raised again that came in a callback."""
AGAIN = "a second Ctrl-C stops at once"


class Watchman:
    """A thread that hears of SIGINT and SIGTERM at once, whatever the main thread does.

    The interpreter writes the number of every signal that it handles to a socket, from wherever it arrives. The first
    one is answered when the process has not ended a moment later; a SIGINT after that ends it. What comes within that
    moment is the same stop: a launcher passes on what its whole group of processes has received. A scheduler that says
    SIGTERM again still wants the work to be saved.

    Python drops what a handler raises while a callback of the collector or a finaliser runs. A stop that is dropped is
    sent again.

    Args:
      answer: says what is waited for; called on the thread.
      stops: what a handler raises, beside KeyboardInterrupt; its `exit_code` is 128 + the signal's number.

    Attributes:
      dropped: whether the last stop was; the handler that raises it again takes this back.
    """

    def __init__(self, answer: Callable[[], None], stops: type[BaseException] = KeyboardInterrupt):
        self._answer, self._stops = answer, (KeyboardInterrupt, stops)
        self.dropped, self._sent_again = False, 0.0
        self._hook: Callable[[Any], Any] = sys.unraisablehook
        self._ended = threading.Event()
        self._sockets: tuple[socket.socket, socket.socket] | None = None
        self._thread: threading.Thread | None = None
        self._before = -1

    def __enter__(self) -> Watchman:
        # Signals are the main thread's: called on any other there is nothing to watch.
        if threading.current_thread() is threading.main_thread():
            self._sockets = socket.socketpair()
            self._sockets[1].setblocking(False)
            self._before = signal.set_wakeup_fd(self._sockets[1].fileno(), warn_on_full_buffer=False)
            self._thread = threading.Thread(target=self._watch, args=(self._sockets[0],), daemon=True)
            self._thread.start()
            self._hook, sys.unraisablehook = sys.unraisablehook, self._raised_in_vain
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._sockets is not None and self._thread is not None:
            sys.unraisablehook = self._hook
            signal.set_wakeup_fd(self._before)
            self._sockets[1].close()
            self._thread.join()
            self._sockets[0].close()

    def _watch(self, signals: socket.socket) -> None:
        while (number := signals.recv(1)) and number[0] not in (signal.SIGINT, signal.SIGTERM):
            pass
        if not number or self._ended.wait(GRACE):
            return
        drain(signals)
        self._answer()
        while (number := signals.recv(1)) and (number[0] != signal.SIGINT or self._is_own()):
            pass
        if number and not self._ended.wait(GRACE):
            end_now(number[0])

    def _raised_in_vain(self, what: Any) -> None:
        if not issubclass(what.exc_type, self._stops):
            self._hook(what)
            return
        number = getattr(what.exc_value, "exit_code", 128 + signal.SIGINT) - 128
        self.dropped = True
        again = threading.Timer(PAUSE, self._send, (number,))
        again.daemon = True
        again.start()

    def _send(self, number: int) -> None:
        if not self._ended.is_set():
            self._sent_again = time.monotonic()
            os.kill(os.getpid(), number)

    def _is_own(self) -> bool:
        """Whether a signal that has just come is the one that was sent again."""
        return time.monotonic() - self._sent_again < GRACE


def drain(signals: socket.socket) -> None:
    """Forget what has come and was not read."""
    signals.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        signals.recv(4096)
    signals.setblocking(True)


def end_now(number: int) -> None:
    """End the process as a signal would: nothing that it leaves half-written is ever read."""
    with contextlib.suppress(Exception):
        print("\njaxpo: stopped at once; what was saved before stays", file=sys.stderr, flush=True)
        sys.stdout.flush()
    os._exit(128 + number)
