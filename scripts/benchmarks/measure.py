"""Take the time of contestants in turn, or of one alone in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.work import Options

ROOT = Path(__file__).resolve().parents[2]
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
FORGET_PEAK = "5"
CHILD = "import sys; from benchmarks.measure import child; child(*sys.argv[1:])"


@dataclass(frozen=True)
class Times:
    """Seconds of each repetition: elapsed, and of the processor over all threads."""

    wall: tuple[float, ...]
    cpu: tuple[float, ...]


@dataclass(frozen=True)
class Measured:
    """What a process took as a whole, its start and imports included, and what its function returned.

    Attributes:
      peak_bytes: largest resident size of the process itself, or since its last `forget_peak`. Where the system cannot
        forget a peak it may be the parent's at the start: ru_maxrss survives fork and exec.
    """

    wall: float
    cpu: float
    peak_bytes: int
    result: Any


class ChildFailed(Exception):
    """A process that measured alone ended without a result; the message is the end of what it said."""


class Parts(dict[str, list[float]]):
    """Seconds `{part: [elapsed, of the processor]}` of what was called under these names."""

    def timed(self, part: str, run: Callable[[], Any]) -> Any:
        """Call `run`, keep its seconds as `part`, and return what it returned."""
        start, spent = time.perf_counter(), time.process_time()
        result = run()
        self[part] = [time.perf_counter() - start, time.process_time() - spent]
        return result


def say(text: str) -> None:
    """A line of progress for whoever waits; stdout is kept for results."""
    print(text, file=sys.stderr, flush=True)


def interleaved(runs: Mapping[str, Callable[[], Any]], options: Options) -> dict[str, Times]:
    """Every contestant once per round, so that what else the machine does hits all alike; the first round warms up.

    The order turns round with every round: whoever follows a contestant finds the caches as that one left them.
    """
    import jax

    wall: dict[str, list[float]] = {name: [] for name in runs}
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(options.repeats + 1):
        for name in list(runs)[:: 1 if i % 2 else -1]:
            start, spent = time.perf_counter(), time.process_time()
            jax.block_until_ready(runs[name]())
            if i:
                wall[name].append(time.perf_counter() - start)
                cpu[name].append(time.process_time() - spent)
        say(f"  round {i} of {options.repeats}" + ("" if i else ", which warms up"))
    return {name: Times(tuple(wall[name]), tuple(cpu[name])) for name in runs}


def alone(
    module: str,
    function: str,
    *args: str,
    environment: Mapping[str, str] | None = None,
    timeout: float | None = None,
    threads: int | None = None,
) -> Measured:
    """Call `module.function(*args)` in a process of its own, which gives back what JSON can say.

    Args:
      environment: set beside what this process has.
      timeout: seconds, after which the process is ended.
      threads: processors that the process may use; None = as this one.

    Raises:
      ChildFailed: no result; it says why.
    """
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as out, tempfile.TemporaryFile("w+", encoding="utf-8") as err:
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, module, function, *args],
            env=surroundings(os.environ, environment or {}, threads),
            cwd=ROOT,
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
        )
        echo = threading.Thread(target=_echo, args=(process.stderr, err))
        echo.start()
        timer = threading.Timer(timeout, process.kill) if timeout else None
        if timer:
            timer.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        finally:
            if timer:
                timer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - start
        echo.join()
        out.seek(0)
        err.seek(0)
        if process.returncode:
            late = timeout is not None and wall >= timeout
            raise ChildFailed(f"not done after {timeout:.0f} s" if late else _why(process.returncode, err.read()))
        said = json.loads(out.read().strip().rpartition("\n")[2])
    # Linux counts ru_maxrss in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    peak = said["peak"] or usage.ru_maxrss * unit
    return Measured(wall, usage.ru_utime + usage.ru_stime, peak, said["result"])


def surroundings(base: Mapping[str, str], more: Mapping[str, str], threads: int | None) -> dict[str, str]:
    """The environment of a process that measures: finds this checkout, and keeps to its processors."""
    path = [str(ROOT), str(ROOT / "scripts"), *filter(None, [base.get("PYTHONPATH")])]
    kept = {"OMP_NUM_THREADS": str(threads), "JAXPO_BENCH_THREADS": str(threads)} if threads else {}
    return {**base, "PYTHONPATH": os.pathsep.join(path), **kept, **more}


def keep_to(threads: int) -> None:
    """Let this process use so many processors: XLA sizes its pool by them, when it starts; PyTorch is told apart."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def child(module: str, function: str, *args: str) -> None:
    """The other side of `alone`."""
    import importlib

    known = forget_peak()
    if threads := os.environ.get("JAXPO_BENCH_THREADS"):
        keep_to(int(threads))
    result = getattr(importlib.import_module(module), function)(*args)
    print("\n" + json.dumps({"result": result, "peak": resident_bytes() if known else None}), flush=True)


def forget_peak() -> bool:
    """Let `peak_bytes` start anew from what is resident now; False where the system cannot."""
    try:
        CLEAR.write_text(FORGET_PEAK)
    except OSError:
        return False
    return True


def resident_bytes(field: str = "VmHWM") -> int:
    """Largest resident size since the process began or `forget_peak`; with "VmRSS" the present one. Linux alone."""
    for line in STATUS.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise KeyError(field)


def _echo(source: Any, copy: Any) -> None:
    """Pass on a child's lines as they come, and keep them."""
    for line in source:
        copy.write(line)
        sys.stderr.write(line)
        sys.stderr.flush()


def _why(code: int, said: str) -> str:
    last = [line for line in said.strip().splitlines() if line.strip()][-1:] or ["it said nothing"]
    ended = f"ended by signal {-code}" if code < 0 else f"exit status {code}"
    return f"{ended}: {last[0]}"
