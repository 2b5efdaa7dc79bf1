"""The end of an asynchronous save: everything is on disk before the checkpoint gets its name."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import jax

from jaxpo.checkpoint.integrity import write_files
from jaxpo.data.durable import publish
from jaxpo.sharding.coordination import service

UNSYNCED = ".unsynced"
"""Ends the name that Orbax writes to: what it has renamed may still be in memory alone."""
LONGEST = 3600 * 1000
"""Milliseconds that the other processes wait for process 0 to sync: JAX's heartbeat notices a dead one."""
_commits = itertools.count()


class Response(Protocol):
    """What Orbax gives for a save under way."""

    def result(self, timeout: float | None = None) -> None: ...


class Commit(threading.Thread):
    """Waits for a save, describes and syncs its files, and gives the checkpoint its name, beside the training.

    Args:
      response: of the save to `path` with the ending `UNSYNCED`.
      path: of the checkpoint.
      then: called on process 0 when it has its name.
    """

    def __init__(self, response: Response, path: Path, then: Callable[[], None]):
        super().__init__(name=f"commit of {path.name}")
        self._response, self._path, self._then, self._number = response, path, then, next(_commits)
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._response.result()
            if jax.process_index() == 0:
                written = self._path.with_name(self._path.name + UNSYNCED)
                write_files(written)
                publish(written, self._path)
                self._then()
            _meet(f"jaxpo/commit/{self._number}")
        except BaseException as error:
            self._error = error

    def result(self) -> None:
        """Wait until the checkpoint has its name; what failed is raised."""
        self.join()
        if self._error is not None:
            raise self._error


def _meet(key: str) -> None:
    """All processes have come here, and none has used its devices, which belong to the training."""
    if jax.process_count() > 1:
        service().wait_at_barrier(key, LONGEST)
