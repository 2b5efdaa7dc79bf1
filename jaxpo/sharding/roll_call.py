"""Whether all processes of a run are there: each gives its number to process 0, which says who is missing."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Iterable, Mapping

from jaxpo.errors import RunError

GREETING, COME = "jaxpo", "all are here"
RETRY, HANDSHAKE = 0.2, 5.0
"""Seconds between two attempts to reach process 0, and for which a caller may keep it waiting."""


def call_roll(address: str, count: int, deadline: float, bind: str | None = None) -> dict[int, socket.socket]:
    """As process 0: wait for the numbers 1 to count - 1, then let all go on at once.

    Returns:
      Number -> the line to that process, which stays open.

    Args:
      address: "host:port" that the others reach; JAX's own service takes the same port afterwards.
      deadline: of `time.monotonic()`.
      bind: "host:port" to listen on, as JAX will; None = the same port of every address.

    Raises:
      RunError: the port is taken; some did not come, or came with another number of processes. All that came say so.
    """
    here: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as stack, _listen(address, bind) as server:
        try:
            while len(here) < count - 1:
                _take(server, here, count, deadline, stack)
                if time.monotonic() >= deadline and len(here) < count - 1:
                    raise RunError(_missing(here, count, address))
        except RunError as error:
            _tell(here.values(), str(error))
            raise
        _tell(here.values(), COME)
        stack.pop_all()
    return here


def answer_roll(address: str, index: int, count: int, deadline: float) -> socket.socket:
    """As any other process: give one's number to process 0, and wait for its word; returns the line to it.

    Raises:
      RunError: process 0 is not reached; or what it says is wrong.
    """
    connection = _reach(address, index, count, deadline)
    # Process 0 may have started later, and knows who is missing: its word is worth a moment more.
    connection.settimeout(max(deadline - time.monotonic(), 0) + HANDSHAKE)
    try:
        connection.sendall(f"{GREETING} {index} {count}\n".encode())
        said = _line(connection)
    except OSError:
        said = ""
    if said != COME:
        connection.close()
        raise RunError(said or f"process 0 at {address} ended, or did not answer in time; see what it says.")
    return connection


def _line(connection: socket.socket) -> str:
    """What is said up to the end of a line, and not a byte more: the rest is another reader's."""
    said = b""
    while (byte := connection.recv(1)) not in (b"", b"\n"):
        said += byte
    return said.decode(errors="replace").strip()


def _take(
    server: socket.socket, here: dict[int, socket.socket], count: int, deadline: float, stack: contextlib.ExitStack
) -> None:
    """Take in whoever comes next, and strike off whoever left; returns at the deadline at the latest."""
    ready, _, _ = select.select([server, *here.values()], [], [], max(deadline - time.monotonic(), 0))
    for index in [i for i, connection in here.items() if connection in ready]:
        del here[index]
    if server not in ready:
        return
    connection = stack.enter_context(server.accept()[0])
    introduced = _introduced(connection)
    if introduced is None:
        return
    index, their_count = introduced
    wrong = None
    if their_count != count:
        wrong = f"process {index} was started as one of {their_count} processes, and process 0 as one of {count}."
    elif index in here or not 0 < index < count:
        wrong = f"two processes have the number {index}, or it is none of 1 to {count - 1}."
    if wrong is not None:
        _tell([connection], wrong)
        raise RunError(wrong)
    here[index] = connection


def _introduced(connection: socket.socket) -> tuple[int, int] | None:
    """Number of a process, and of how many it is one; None for a stranger."""
    connection.settimeout(HANDSHAKE)
    try:
        words = connection.recv(100).decode(errors="replace").split()
    except OSError:
        return None
    if len(words) != 3 or words[0] != GREETING or not all(w.isdecimal() for w in words[1:]):
        return None
    return int(words[1]), int(words[2])


def _tell(connections: Iterable[socket.socket], word: str) -> None:
    for connection in connections:
        # One that left in the meantime is told nothing.
        with contextlib.suppress(OSError):
            connection.sendall(f"{word}\n".encode())


def _missing(here: Mapping[int, socket.socket], count: int, address: str) -> str:
    missing = [i for i in range(1, count) if i not in here]
    numbers = ", ".join(map(str, missing[:20])) + (", ..." if len(missing) > 20 else "")
    who = f"process {numbers}" if len(missing) == 1 else f"processes {numbers}"
    return (
        f"{who} did not come: {len(missing)} of {count} are missing at {address} (process 0). See whether they were "
        "started, with this address, and whether they reach it; JAXPO_START_TIMEOUT (seconds) gives them longer."
    )


def _listen(address: str, bind: str | None) -> socket.socket:
    host, port = split_address(bind) if bind else ("", split_address(address)[1])
    both = not host and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both or ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, dualstack_ipv6=both)
    except OSError as error:
        raise RunError(
            f"process 0 cannot listen at {bind or address}: {error}. Another program, or an earlier start of this run, "
            "has the port: stop it, or choose another port."
        ) from None


def split_address(address: str) -> tuple[str, int]:
    """ "host:port" -> (host, port); RunError when it is something else."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise RunError(f"expected HOST:PORT of process 0, got {address!r}.")
    return host.strip("[]"), int(port)


def _reach(address: str, index: int, count: int, deadline: float) -> socket.socket:
    """A connection to process 0, tried until the deadline: it may start later."""
    while True:
        try:
            return socket.create_connection(split_address(address), timeout=max(deadline - time.monotonic(), RETRY))
        except OSError as error:
            if time.monotonic() + RETRY >= deadline:
                raise RunError(
                    f"process {index} of {count} does not reach process 0 at {address}: {error}. See whether process 0 "
                    "was started there; JAXPO_START_TIMEOUT (seconds) gives it longer."
                ) from None
            time.sleep(RETRY)
