"""Whether the other processes of a run are alive: each keeps the line to process 0 on which it came to the roll call.

A process that is killed loses its line at once, for the kernel closes it. One that is stopped, or whose host or network
is gone, falls silent. One that ends by itself says why before. Process 0 hears it and passes it on, so that every
process ends in bounded time, in whatever collective it waits, and names the one that is missing.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jaxpo.errors import FAULT, INTERRUPTED, OK, PREEMPTED, TRY_AGAIN, USER_ERROR, JaxpoError

AGREED = (OK, PREEMPTED)
"""Those with which processes leave by agreement: done, or stopped at the same step."""
GRACE = 5.0
"""Seconds for a process to end by itself when another says that it stopped: the same mistake may have stopped both."""
NEWS = 2.0
"""Seconds for news of a lost process after an error that it may have caused."""
BEATS = 5
"""Signs of life in the time after which silence counts."""


@dataclass
class _Peer:
    """The other end of a line: what was read of it and is no whole message yet, and the beats since it was heard."""

    connection: socket.socket
    read: bytes = b""
    missed: int = 0


class Line:
    """The lines of one process: of process 0 to every other, of the others to process 0. Watched on a thread.

    Args:
      index: of this process.
      connections: by the number of the process at the other end.
      seconds: after which a silent process counts as gone.
      end: ends this process with an exit status; never returns.
    """

    def __init__(
        self,
        index: int,
        connections: Mapping[int, socket.socket],
        seconds: float,
        end: Callable[[int], Any] = os._exit,
    ):
        self.index, self._seconds, self._exit = index, seconds, end
        self._peers = {i: _Peer(connection) for i, connection in connections.items()}
        self._ended, self._heard = threading.Event(), threading.Event()
        self._talking, self._closing = threading.Lock(), threading.Lock()
        self._news: tuple[str, int] | None = None
        self._thread = threading.Thread(target=self._watch, daemon=True, name="liveness")
        self._thread.start()

    def leave(self, code: int, why: str = "") -> None:
        """Say that this process ends, with its exit status; what the others do afterwards is no concern of it."""
        self._ended.set()
        self._tell({"left": self.index, "code": code, "why": why})

    def news(self) -> tuple[str, int] | None:
        """What is known of a process that is gone, and the exit status that this one ends with; waits for it."""
        self._heard.wait(NEWS)
        return self._news

    def close(self, message: str, code: int) -> None:
        """End this process, and say why."""
        again = ". The same command goes on from the last checkpoint" if code == TRY_AGAIN else ""
        with self._closing:
            with contextlib.suppress(OSError, ValueError):
                print(f"jaxpo: {message}; process {self.index} ends with it{again}", file=sys.stderr, flush=True)
                sys.stdout.flush()
            self._exit(code)

    def _watch(self) -> None:
        pause = self._seconds / BEATS
        with selectors.DefaultSelector() as open_lines:
            for index, peer in self._peers.items():
                peer.connection.settimeout(self._seconds)
                open_lines.register(peer.connection, selectors.EVENT_READ, index)
            beat = time.monotonic() + pause
            while open_lines.get_map():
                for key, _ in open_lines.select(max(beat - time.monotonic(), 0)):
                    if not all(self._hear(key.data, said) for said in self._read(key.data)):
                        open_lines.unregister(key.fileobj)
                # Beats are counted, not seconds: a process that was stopped itself finds what came meanwhile unread.
                if time.monotonic() >= beat:
                    beat = time.monotonic() + pause
                    self._tell({})
                    for key in list(open_lines.get_map().values()):
                        if self._silent(key.data):
                            open_lines.unregister(key.fileobj)

    def _read(self, index: int) -> Iterator[Mapping[str, Any] | None]:
        """The messages that have come from a process; None where the line is broken."""
        peer = self._peers[index]
        try:
            come = peer.connection.recv(1 << 16)
        except OSError:
            come = b""
        *lines, peer.read = (peer.read + come).split(b"\n")
        peer.missed = 0
        yield from map(json.loads, lines)
        if not come:
            yield None

    def _silent(self, index: int) -> bool:
        """Count a beat without a word from a process; True when there were too many."""
        peer = self._peers[index]
        peer.missed += 1
        if peer.missed <= BEATS:
            return False
        self._end(f"process {index} has been silent for {self._seconds:g} s: it hangs, or its host is gone", TRY_AGAIN)
        return True

    def _hear(self, index: int, said: Mapping[str, Any] | None) -> bool:
        """Whether more may come on this line."""
        if said is None:
            self._end(f"process {index} is gone without a word: it was killed, or its host went down", TRY_AGAIN)
        elif "gone" in said:
            self._end(said["gone"], said["code"])
        elif "left" in said and said["code"] not in AGREED:
            self._end(f"process {index} stopped: {said['why'] or 'see what it says'}", said["code"])
        return said == {}

    def _end(self, message: str, code: int) -> None:
        """Pass the news on, and end."""
        if self._news is None:
            self._news = message, code
        self._heard.set()
        if self.index == 0:
            self._tell({"gone": message, "code": code})
        # One that is gone without a word leaves nothing to wait for.
        if not self._ended.wait(GRACE if code != TRY_AGAIN else 0):
            self.close(*self._news)

    def _tell(self, what: Mapping[str, Any]) -> None:
        with self._talking:
            for peer in self._peers.values():
                # One that has left is told nothing.
                with contextlib.suppress(OSError):
                    peer.connection.sendall(json.dumps(what).encode() + b"\n")


def patient_abort() -> None:
    """Let an abort of this process wait a few seconds.

    JAX aborts a process whose coordination service is gone, within milliseconds and without a name of use; the line has
    the name, and the exit status. The handler is the C library's `sleep`, called with the signal's number, 6.
    """
    library = ctypes.CDLL(None)
    library.signal.argtypes, library.signal.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    library.signal(signal.SIGABRT, ctypes.cast(library.sleep, ctypes.c_void_p))


def together(line: Line | None, work: Callable[[], int]) -> int:
    """The exit status of `work()`, one process's part of a run of several (None = it is alone).

    An error ends the process at once, and the others hear of it: left to itself the interpreter would wait in JAX's
    barrier at exit for processes that wait in a collective for this one.
    """
    if line is None:
        return work()
    try:
        code = work()
    except BaseException as error:
        stop(line, error)
        raise
    line.leave(code)
    return code


def stop(line: Line, error: BaseException) -> None:
    """Say to the others that an error ends this process; it returns for what the command line tells its user.

    What a collective or a save says of a process that is gone names nobody: then that process is named instead.
    """
    interrupted = isinstance(error, KeyboardInterrupt)
    found = None if interrupted else line.news()
    ours = isinstance(error, JaxpoError | OSError | KeyboardInterrupt)
    if found is not None and (found[1] == TRY_AGAIN or not ours):
        line.close(*found)
    if ours:
        line.leave(INTERRUPTED if interrupted else USER_ERROR, _named(error))
        return
    traceback.print_exception(error)
    line.leave(FAULT, _named(error))
    sys.stdout.flush()
    os._exit(FAULT)


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")
