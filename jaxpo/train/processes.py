"""What each process of a run spends its time on, and which one holds the others up.

The processes tell each other through the coordination service. Nothing is told per step, and a process that is alone
tells nothing.
"""

from __future__ import annotations

import itertools
import json
import socket
from typing import Any

import jax

from jaxpo.sharding.coordination import service
from jaxpo.train.goodput import Json, behind
from jaxpo.train.ledger import Ledger
from jaxpo.train.peaks import memory_peaks

KEY = "jaxpo/times"
LONGEST = 10_000
"""Milliseconds that the first process waits at the end of a stage for what the others say."""
_lines = itertools.count()
"""One number for each line of each stage: all processes write the same lines."""


class Exchange:
    """At every log line of a stage each process says what it has spent; the first reads what was said one line ago.

    All processes have said that by then, as their steps keep pace: nobody waits.
    """

    def __init__(self, stage: str, ledger: Ledger):
        self._stage, self._ledger = stage, ledger
        self._line: int | None = None
        self._before: list[Json] = []
        self._lag: dict[str, float] = {}

    def tell(self, steps: int, *, last: bool = False) -> dict[str, float]:
        """Say what this process has spent; `slowest_process` and its `slowest_process_lag`, on the first one.

        Args:
          steps: that this start has taken of the stage.
          last: nothing follows, so that the first process waits for the others.
        """
        if jax.process_count() == 1:
            return {}
        earlier, self._line = self._line, next(_lines)
        seconds = {part: round(s, 6) for part, s in self._ledger.spent(self._stage).items()}
        said = {"host": socket.gethostname(), "steps": steps, "seconds": seconds, **memory_peaks()}
        store = service()
        store.key_value_set(f"{KEY}/{self._line}/{jax.process_index()}", json.dumps(said))
        line = self._line if last else earlier
        if jax.process_index() == 0 and line is not None:
            self._read(store, f"{KEY}/{line}", wait=last)
        return self._lag

    def _read(self, store: Any, line: str, *, wait: bool) -> None:
        keys = [f"{line}/{i}" for i in range(jax.process_count())]
        try:
            if wait:
                told = {key: store.blocking_key_value_get(key, LONGEST) for key in keys}
            else:
                told = dict(store.key_value_dir_get(line))
        except jax.errors.JaxRuntimeError:  # a process that is that late, or gone, says nothing; the loop will notice
            return
        if len(told) < len(keys):
            return
        found: list[Json] = [json.loads(told[key]) for key in keys]
        store.key_value_delete(line)
        lags = behind(self._before or [{"steps": 0, "seconds": {}}] * len(found), found)
        slowest = max(range(len(lags)), key=lags.__getitem__)
        self._lag = {"slowest_process": slowest, "slowest_process_lag": lags[slowest]}
        self._before = found
        self._ledger.processes(self._stage, found)
