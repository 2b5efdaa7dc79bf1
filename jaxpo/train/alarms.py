"""Alerts: asked for at every log line, kept in `alerts.jsonl`, said, and handed to whoever wants to know."""

from __future__ import annotations

import json
import queue
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from jaxpo.config.alerts import KEPT
from jaxpo.errors import writing

ALERTS = "alerts.jsonl"
LONGEST = 60.0
"""Seconds that the end of a run waits for receivers."""
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Alert:
    """What was noticed.

    Attributes:
      time: UTC, ISO 8601.
      run: its name.
      directory: of the run.
      rule: name of the type that noticed it.
    """

    time: str
    run: str
    directory: str
    stage: str
    step: int
    rule: str
    message: str

    def text(self) -> str:
        """One line for people."""
        return f"{self.stage} step {self.step}: {self.rule}: {self.message}"


class Alarms:
    """Asks each rule at each log line; one that stays true is told once, until it was false in between.

    Args:
      folder: of the run; `alerts.jsonl` in it is only ever added to, as what was told stays told.
      rules: see `jaxpo.config.alerts`; one that fails is a warning, and is not asked again.
      receivers: with `send(alert)`, called one after another on a thread of their own; what they raise is a warning.
    """

    def __init__(
        self,
        folder: Path | None = None,
        run: str = "",
        rules: Sequence[Any] = (),
        receivers: Sequence[Any] = (),
        say: Callable[[str], None] = print,
    ):
        self._folder, self._run, self._rules, self._receivers, self._say = folder, run, list(rules), receivers, say
        self._history: deque[Record] = deque(maxlen=KEPT)
        self._true: set[tuple[int, bool]] = set()
        self._queue: queue.Queue[Alert | None] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._failed: deque[str] = deque()

    def __enter__(self) -> Alarms:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """What is on its way to a receiver gets there, if that takes no longer than `LONGEST`."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(LONGEST)
            if self._thread.is_alive():
                self._say(f"warning: a receiver of alerts has not returned for {LONGEST:.0f} s and is left behind")
        self._say_failed()

    def begin(self, earlier: Sequence[Record]) -> None:
        """A stage begins or goes on; `earlier` are its lines so far."""
        self._history = deque(earlier, maxlen=KEPT)
        self._true = set()

    def see(self, record: Record) -> None:
        """A line of metrics.jsonl, as it was before non-finite numbers became null."""
        if self._folder is None:
            return
        self._say_failed()
        history = tuple(self._history)
        for i, rule in enumerate(self._rules):
            if rule is None:
                continue
            # A line of an evaluation does not end what a rule saw in the lines of training.
            key = (i, "eval_runtime" in record)
            try:
                message = rule.check(record, history)
            except Exception as error:  # a user's own rule must not end the run
                self._rules[i], name = None, type(rule).__name__
                self._say(f"warning: {name} is not asked for alerts any more: {type(error).__name__}: {error}")
                continue
            if message is None:
                self._true.discard(key)
            elif key not in self._true:
                self._true.add(key)
                self._raise(record, type(rule).__name__, message)
        self._history.append(record)

    def _raise(self, record: Record, rule: str, message: str) -> None:
        assert self._folder is not None
        now = datetime.now(UTC).isoformat(timespec="seconds")
        alert = Alert(now, self._run, str(self._folder), record["stage"], record["step"], rule, message)
        path = self._folder / ALERTS
        with writing(path), path.open("ab", buffering=0) as file:
            file.write(f"{json.dumps(asdict(alert))}\n".encode())
        self._say(f"alert: {alert.text()}")
        if self._receivers and self._thread is None:
            self._thread = threading.Thread(target=self._hand_on, daemon=True, name="alerts")
            self._thread.start()
        self._queue.put(alert)

    def _hand_on(self) -> None:
        while (alert := self._queue.get()) is not None:
            for receiver in self._receivers:
                try:
                    receiver.send(alert)
                except Exception as error:  # whatever a user's own code raises must not end the run
                    name = type(receiver).__name__
                    self._failed.append(f"{name} did not take an alert: {type(error).__name__}: {error}")

    def _say_failed(self) -> None:
        while self._failed:
            self._say(f"warning: {self._failed.popleft()}")
