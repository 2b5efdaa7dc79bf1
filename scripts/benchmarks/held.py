"""Contestants in processes of their own that stay: each loads its model once, and is asked in turn.

So that none pays for another's threads, and the most memory that each had at once is its own.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from benchmarks.measure import ROOT, ChildFailed, Times, forget_peak, keep_to, resident_bytes, say, surroundings

HOLD = "import sys; from benchmarks.held import hold; hold(int(sys.argv[1]), *sys.argv[2:])"


@dataclass(frozen=True)
class Reply:
    """What a call took in the other process, and what it gave back.

    Attributes:
      peak_bytes: largest resident size since the process began.
    """

    wall: float
    cpu: float
    peak_bytes: int
    result: Any


class Held:
    """A process in which `module.function(*args)` was called once, and whose result is called again and again."""

    def __init__(
        self, module: str, function: str, *args: str, threads: int, environment: Mapping[str, str] | None = None
    ) -> None:
        self._said = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 as long as the process
        answers, writes = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(writes), module, function, *args],
            env=surroundings(os.environ, environment or {}, threads),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=self._said,
            stderr=self._said,
            text=True,
            pass_fds=(writes,),
        )
        os.close(writes)
        self._answers = open(answers, encoding="utf-8")  # noqa: SIM115 as long as the process
        self.peak_bytes = 0
        self._heard()

    def call(self, *args: Any) -> Reply:
        """What the function's result makes of these arguments, which JSON can say as it can the answer.

        Raises:
          ChildFailed: the process ended; the message is the end of what it said.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(args) + "\n")
        self._process.stdin.flush()
        found = Reply(**self._heard())
        self.peak_bytes = found.peak_bytes
        return found

    def _heard(self) -> Any:
        line = self._answers.readline()
        if line:
            return json.loads(line)
        code = self._process.wait()
        self._said.seek(0)
        last = [line for line in self._said.read().splitlines() if line.strip()][-1:] or ["it said nothing"]
        raise ChildFailed(f"exit status {code}: {last[0]}")

    def __enter__(self) -> Held:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._answers.close()
        self._said.close()


def hold(answers: int, module: str, function: str, *args: str) -> None:
    """The other side of `Held`: ends when nothing more is asked."""
    forget_peak()
    keep_to(int(os.environ["JAXPO_BENCH_THREADS"]))
    with open(answers, "w", encoding="utf-8") as out:
        run = getattr(importlib.import_module(module), function)(*args)
        print(json.dumps("ready"), file=out, flush=True)
        for line in sys.stdin:
            start, spent = time.perf_counter(), time.process_time()
            result = run(*json.loads(line))
            took = {"wall": time.perf_counter() - start, "cpu": time.process_time() - spent}
            print(json.dumps(took | {"peak_bytes": resident_bytes(), "result": result}), file=out, flush=True)


def in_turn(runs: Mapping[str, Callable[[int], Reply]], repeats: int) -> dict[str, Times]:
    """As `benchmarks.measure.interleaved`; each run is given the round's number, 0 warms up."""
    wall: dict[str, list[float]] = {name: [] for name in runs}
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(repeats + 1):
        for name in list(runs)[:: 1 if i % 2 else -1]:
            found = runs[name](i)
            if i:
                wall[name].append(found.wall)
                cpu[name].append(found.cpu)
        say(f"  round {i} of {repeats}" + ("" if i else ", which warms up"))
    return {name: Times(tuple(wall[name]), tuple(cpu[name])) for name in runs}
