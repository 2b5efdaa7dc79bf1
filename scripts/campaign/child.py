"""`jaxpo run` in a process of its own, as a user starts it, that can be watched and killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INJECTED = Path(__file__).with_name("injected")
LIMIT = 600.0
"""Seconds after which a process counts as hung: the campaign kills it, and the fault was not survived."""
LOOK = 0.002


@dataclass(frozen=True)
class Ended:
    """How a process ended; `code` None = it did not."""

    code: int | None
    text: str

    @property
    def last(self) -> str:
        """The line that says why, as far as one line can."""
        lines = [line for line in self.text.splitlines() if line.strip()]
        return lines[-1].strip() if lines else "nothing was said"


class Child:
    """A process that writes to a file, so that no pipe holds it up.

    Args:
      words: behind `jaxpo`.
      output: gets all that it says.
      environ: what its environment has besides.
      before: done in the child before it becomes jaxpo (limits).
    """

    def __init__(
        self,
        words: list[str],
        output: Path,
        environ: Mapping[str, str],
        before: Callable[[], None] | None = None,
    ):
        self.output = output
        with output.open("wb") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jaxpo", *words],
                cwd=output.parent,
                env=os.environ | dict(environ),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=before,
            )

    def until(self, condition: Callable[[], bool], limit: float = LIMIT) -> bool:
        """Wait until it holds; False when the process ended first, or the limit is over."""
        end = time.monotonic() + limit
        while self.process.poll() is None and time.monotonic() < end:
            if condition():
                return True
            time.sleep(LOOK)
        return False

    def ended(self, limit: float = LIMIT) -> Ended:
        """Wait for its end; one that does not come is killed."""
        try:
            code: int | None = self.process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
            self.send(signal.SIGKILL)
        return Ended(code, self.output.read_text(errors="replace"))

    def send(self, number: int) -> None:
        """A signal to it; SIGKILL goes to its children too, and is waited for. One that has just ended is no error."""
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(self.process.pid, number)
            else:
                self.process.send_signal(number)
        if number == signal.SIGKILL:
            self.process.wait()
