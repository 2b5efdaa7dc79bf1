"""What the engine tells a handler of one HTTP request; every method but the first three is the event loop's alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from jaxpo.sampling.request import Generation, Request
from jaxpo.serve.errors import ApiError, failed

Update = tuple[int, Generation]
"""Which of the requests, and one of its answers as far as it is."""


@dataclass(eq=False)
class Asked:
    """Requests to the engine that are answered together.

    Attributes:
      stream: whether answers are wanted as they grow.
      deadline: of the event loop's clock; None = none.
      late: what is raised then.
    """

    requests: Sequence[Request]
    stream: bool
    deadline: float | None = None
    late: ApiError = field(default_factory=lambda: failed("too late"))
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)

    def __post_init__(self) -> None:
        self._latest: dict[tuple[int, int], Update] = {}
        self._left = sum(request.n for request in self.requests)
        self._taken = False
        self._failure: ApiError | None = None
        self._changed = asyncio.Event()

    def tell(self, updates: Sequence[Update]) -> None:
        """From the engine's thread: answers that grew or ended."""
        self.loop.call_soon_threadsafe(self._tell, updates)

    def fail(self, error: ApiError) -> None:
        """From the engine's thread: there will be no answer."""
        self.loop.call_soon_threadsafe(self._fail, error)

    def take(self) -> None:
        """From the engine's thread: the engine has accepted all requests."""
        self.loop.call_soon_threadsafe(self._take)

    async def accepted(self) -> None:
        """Wait until the engine has them; ApiError where it refuses them."""
        while not self._taken:
            await self._next()

    async def updates(self) -> AsyncIterator[list[Update]]:
        """What is new, until every answer has ended; what was not fetched in between is only there in its newest form.

        Raises:
          ApiError: the engine failed, an answer ended with an error, or the deadline has passed.
        """
        while self._left or self._latest:
            if not self._latest:
                await self._next()
            latest, self._latest = list(self._latest.values()), {}
            for _, generation in latest:
                if generation.reason in ("error", "cancelled"):
                    raise failed(f"The answer ended early: {generation.error or generation.reason}.")
            yield latest

    async def _next(self) -> None:
        try:
            async with asyncio.timeout_at(self.deadline):
                await self._changed.wait()
        except TimeoutError as error:
            raise self.late from error
        self._changed.clear()
        if self._failure is not None:
            raise self._failure

    def _tell(self, updates: Sequence[Update]) -> None:
        for index, generation in updates:
            self._latest[index, generation.sample] = (index, generation)
            self._left -= generation.reason is not None
        self._changed.set()

    def _fail(self, error: ApiError) -> None:
        self._failure = error
        self._changed.set()

    def _take(self) -> None:
        self._taken = True
        self._changed.set()
