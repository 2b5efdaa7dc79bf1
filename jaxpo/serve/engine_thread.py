"""The one thread that owns the engine: handlers leave word, it steps, and tells them what came of it."""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from jaxpo.errors import JaxpoError
from jaxpo.sampling.request import Generation, Request
from jaxpo.serve.asked import Asked, Update
from jaxpo.serve.errors import ApiError, failed, wrong


class Load(Protocol):
    """What is shown of `jaxpo.sampling.engine.Load`."""

    @property
    def waiting(self) -> int: ...

    @property
    def running(self) -> int: ...

    @property
    def slots(self) -> int: ...

    @property
    def read(self) -> int: ...

    @property
    def shared(self) -> int: ...

    @property
    def written(self) -> int: ...


class Stepped(Protocol):
    """What is needed of `jaxpo.sampling.engine.Engine`."""

    @property
    def busy(self) -> bool: ...

    @property
    def load(self) -> Load: ...

    def submit(self, request: Request) -> int: ...

    def step(self) -> list[Generation]: ...

    def so_far(self, number: int) -> list[Generation]: ...

    def cancel(self, number: int) -> None: ...


@dataclass
class _Running:
    """A request that the engine has: whose it is, which of theirs, and how many of its answers have not ended."""

    asked: Asked
    index: int
    left: int


class EngineThread:
    """Steps an engine as long as there is work, and sleeps while there is none.

    Args:
      died: called on the thread when the engine has raised; nothing is answered after that.

    Attributes:
      death: why the engine stopped; None while it works.
      load: the engine's, after the last step.
    """

    def __init__(self, engine: Stepped, died: Callable[[], None] = lambda: None):
        self._engine, self._died = engine, died
        self._words: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._running: dict[int, _Running] = {}
        self._numbers: dict[Asked, set[int]] = {}
        self._ending = False
        self.death: str | None = None
        self.load = engine.load
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def ask(self, asked: Asked) -> None:
        """From the event loop: queue an HTTP request's requests; `asked` hears the rest."""
        self._words.put(lambda: self._submit(asked))
        if self.death is not None:
            asked.fail(failed(self.death))

    def cancel(self, asked: Asked) -> None:
        """From the event loop: nobody waits for these answers any more, ended or not; their slots become free."""
        self._words.put(lambda: self._cancel(asked))

    def stop(self) -> None:
        """End the thread when its step ends; what still ran is forgotten."""
        self._words.put(self._end)
        if self._thread.is_alive():
            self._thread.join()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and self.death is None

    def _run(self) -> None:
        try:
            while not self._ending:
                self._listen()
                if self._engine.busy and not self._ending:
                    self._step()
                self.load = self._engine.load
        except BaseException as error:
            with contextlib.suppress(OSError, ValueError):  # whoever reads the log may be gone; those who wait are not
                traceback.print_exc(file=sys.stderr)
            self._die(f"the engine stopped: {type(error).__name__}: {error}")

    def _listen(self) -> None:
        """Do what was left word for; sleep while there is nothing else to do."""
        if not self._engine.busy:
            self._words.get()()
        while not self._words.empty():
            self._words.get()()

    def _step(self) -> None:
        news: dict[Asked, list[Update]] = {}
        for generation in self._engine.step():
            if (running := self._running.get(generation.request)) is not None:
                news.setdefault(running.asked, []).append((running.index, generation))
                running.left -= 1
                if not running.left:
                    self._ended(generation.request, running.asked)
        for number, running in self._running.items():
            if running.asked.stream:
                growing = [one for one in self._engine.so_far(number) if one.reason is None and one.tokens]
                news.setdefault(running.asked, []).extend((running.index, one) for one in growing)
        for asked, updates in news.items():
            if updates:
                asked.tell(updates)

    def _submit(self, asked: Asked) -> None:
        if self.death is not None:
            asked.fail(failed(self.death))
            return
        numbers = self._numbers.setdefault(asked, set())
        try:
            for index, request in enumerate(asked.requests):
                number = self._engine.submit(request)
                numbers.add(number)
                self._running[number] = _Running(asked, index, request.n)
        except JaxpoError as error:
            self._cancel(asked)
            asked.fail(wrong(None, str(error)))
            return
        asked.take()

    def _cancel(self, asked: Asked) -> None:
        for number in self._numbers.pop(asked, ()):
            del self._running[number]
            self._engine.cancel(number)

    def _ended(self, number: int, asked: Asked) -> None:
        del self._running[number]
        self._numbers[asked].discard(number)
        if not self._numbers[asked]:
            del self._numbers[asked]

    def _end(self) -> None:
        self._ending = True
        self._forget(ApiError(503, "The server was stopped.", code="stopping"))

    def _die(self, why: str) -> None:
        self.death = why
        self._forget(failed(why))
        # Who asked while it died would wait for ever.
        while not self._words.empty():
            self._words.get()()
        self._died()

    def _forget(self, error: ApiError) -> None:
        for asked in self._numbers:
            asked.fail(error)
        self._numbers.clear()
        self._running.clear()
