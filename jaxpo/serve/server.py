"""From a socket to an exit status: bind, answer, and end when a signal or the engine's death says so."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from jaxpo.errors import FAULT, OK, ConfigError
from jaxpo.serve.app import make_app
from jaxpo.serve.desk import Desk

LAST_WORDS = 2.0
"""Seconds in which a server whose engine died still says so."""
KEEP_ALIVE = 30
"""Seconds that a connection may wait for its next request."""
LAST_SENT = 5
"""Seconds for what is still to be sent when nothing is generated any more."""
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def bind(host: str, port: int) -> socket.socket:
    """A socket at an address; port 0 = any that is free.

    Raises:
      ConfigError: no such address, or the port is taken.
    """
    try:
        family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, number)
    except OSError as error:
        raise ConfigError(f"--host {host}: there is no such address ({error.strerror}).") from error
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        # So that the port is this process's own from now on, before the model is read.
        found.listen()
    except OSError as error:
        found.close()
        raise ConfigError(
            f"--host {host} --port {port}: cannot be used ({error.strerror}); choose another, or stop what uses it."
        ) from error
    return found


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError:
        return False
    return all(ipaddress.ip_address(str(address).partition("%")[0]).is_loopback for address in found)


def address_of(bound: socket.socket) -> str:
    """`http://host:port`."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if bound.family == socket.AF_INET6 else f"http://{host}:{port}"


class Server:
    """Serves a desk on a bound socket.

    Args:
      grace: seconds in which what runs may end once the server is being stopped.
      ready: called when requests are answered.
      log: receives a line for each request.
    """

    def __init__(
        self,
        desk: Desk,
        bound: socket.socket,
        *,
        grace: float,
        ready: Callable[[], None] = lambda: None,
        log: Callable[[str], None] | None = None,
    ):
        self._desk, self._bound, self._grace, self._ready = desk, bound, grace, ready
        app: Any = make_app(desk, log or (lambda line: print(line, file=sys.stderr, flush=True)))
        config = uvicorn.Config(
            app,
            # Its own would close every handler that the process has, and with absl's the stream that it writes to.
            log_config=None,
            log_level="warning",
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=LAST_SENT,
        )
        self._web = _Uvicorn(config)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._begun = threading.Event()
        self._hurried = False

    def run(self) -> int:
        """Answer until SIGINT, SIGTERM or `stop`; the exit status: 0, or 1 when the engine died."""
        return asyncio.run(self._run())

    def stop(self) -> None:
        """From any thread: as SIGTERM does."""
        self._tell(self._stop)

    def engine_died(self) -> None:
        """From the engine's thread."""
        self._tell(self._wake.set)

    def _tell(self, what: Callable[[], None]) -> None:
        self._begun.wait()
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server has ended already
            self._loop.call_soon_threadsafe(what)

    async def _run(self) -> int:
        self._loop = asyncio.get_running_loop()
        self._begun.set()
        self._desk.thread.start()
        with self._signals(self._loop):
            web = asyncio.create_task(self._web.serve([self._bound]))
            while not self._web.started and not web.done():
                await asyncio.sleep(0.01)
            if self._web.started:
                self._ready()
            waking = asyncio.create_task(self._wake.wait())
            await asyncio.wait((web, waking), return_when=asyncio.FIRST_COMPLETED)
            waking.cancel()
            await self._let_end()
            self._web.should_exit = True
            await web
        self._desk.thread.stop()
        return OK if self._desk.thread.death is None else FAULT

    async def _let_end(self) -> None:
        """What runs ends by itself, or is ended after the grace; who asks meanwhile is told."""
        if self._desk.thread.death is not None:
            print(f"jaxpo: {self._desk.thread.death}", file=sys.stderr, flush=True)
            await asyncio.sleep(LAST_WORDS)
            return
        until = asyncio.get_running_loop().time() + self._grace
        while self._desk.places.taken and asyncio.get_running_loop().time() < until:
            if self._desk.thread.death is not None or self._hurried:
                break
            await asyncio.sleep(0.02)
        await asyncio.to_thread(self._desk.thread.stop)

    def _stop(self) -> None:
        """The first time let what runs end, the second time do not wait for it."""
        self._hurried = self._desk.ending
        self._desk.ending = True
        self._wake.set()

    @contextlib.contextmanager
    def _signals(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        """Signals stop the server while the block runs; those of the process come back after it."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in SIGNALS}
        for number in SIGNALS:
            loop.add_signal_handler(number, self._stop)
        try:
            yield
        finally:
            for number, handler in before.items():
                loop.remove_signal_handler(number)
                signal.signal(number, handler)


class _Uvicorn(uvicorn.Server):
    """Without signal handlers of its own, which would end the process by the signal's number."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield
