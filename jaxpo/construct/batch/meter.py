"""How far a file of prompts is answered: a bar on a terminal, a line every 10 seconds elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, TextIO

SAY_EVERY = 10.0


class Meter:
    """Counts rows and new tokens, and shows their speed and the time left.

    Args:
      done: rows that were answered before.
      total: rows to be answered in all.
      stream: default stderr: stdout is the command's result.
    """

    def __init__(self, done: int, total: int, stream: TextIO | None = None):
        self._stream = stream or sys.stderr
        self._first, self.done, self.total, self.tokens = done, done, total, 0
        self._began = self._said = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Meter:
        if self._stream.isatty():
            self._bar = _bar(self._stream)
            self._task = self._bar.add_task("answers", total=self.total, completed=self.done, speed=0.0)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    @property
    def tokens_per_second(self) -> float:
        """New tokens of answers that have ended, by the time since the first step."""
        return self.tokens / max(time.monotonic() - self._began, 1e-9)

    def compiled(self) -> None:
        """The first step is done: from here on time counts."""
        self._began = self._said = time.monotonic()

    def add(self, rows: int, tokens: int) -> None:
        """Answers that have ended."""
        self.done, self.tokens = self.done + rows, self.tokens + tokens
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, speed=self.tokens_per_second)
        elif time.monotonic() - self._said >= SAY_EVERY:
            self._said = time.monotonic()
            print(self.line(), file=self._stream, flush=True)

    def line(self) -> str:
        """`answers: 120 of 1000 rows, 830 tokens/s, 0:12:03 left`."""
        speed = (self.done - self._first) / max(time.monotonic() - self._began, 1e-9)
        left = f", {_clock((self.total - self.done) / speed)} left" if speed > 0 else ""
        return f"answers: {self.done} of {self.total} rows, {self.tokens_per_second:,.0f} tokens/s{left}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _bar(stream: TextIO) -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]:,.0f} tokens/s"),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(file=stream), refresh_per_second=2, speed_estimate_period=60)
