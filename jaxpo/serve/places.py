"""Places for answers: those that run and those that wait, together at most so many."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jaxpo.serve.errors import busy, wrong


class Held:
    """The places of one HTTP request: one while it is read, then one for each of its answers."""

    def __init__(self, places: Places):
        self._places, self.count = places, 0

    def need(self, count: int) -> None:
        """Hold so many.

        Raises:
          ApiError: 429, too few are free; 400, there will never be so many.
        """
        places = self._places
        if count > places.limit:
            raise wrong(
                "n",
                f"the request asks for {count} answers at once (prompts times `n`); the server holds {places.limit}: "
                "ask for fewer.",
            )
        if places.taken - self.count + count > places.limit:
            raise busy(places.pause())
        places.taken += count - self.count
        self.count = count


class Places:
    """Counted by the event loop's thread alone.

    Args:
      pause: seconds after which somebody who found no place may ask again.
    """

    def __init__(self, limit: int, pause: Callable[[], int] = lambda: 1):
        self.limit, self.taken, self.pause = limit, 0, pause

    @contextmanager
    def hold(self) -> Iterator[Held]:
        """One place, and more with `Held.need`, until the block ends."""
        held = Held(self)
        held.need(1)
        try:
            yield held
        finally:
            self.taken -= held.count
