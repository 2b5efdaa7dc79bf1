"""Where the wall time of a run goes, over all of its starts: `starts.json`, and the goodput that follows from it.

Every second of a start belongs to one stage and one part. Within a start a monotonic clock is read; between two starts
the boot's own clock where both are of one boot of one machine, else the wall clock, which may have been set back: then
nothing is counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

import jax

from jaxpo.errors import RunError
from jaxpo.train.files import read_json, write_json
from jaxpo.train.goodput import DOWN, NO_STAGE, PARTS, Json, reached, starts_of, summary
from jaxpo.train.signals import Preempted
from jaxpo.train.watch import CompileWatch

EVERY = 5.0
"""Seconds between two writes at log lines: of a start that is killed, so much may count as downtime."""


class Ledger:
    """Counts from entry to exit.

    Args:
      path: `starts.json`, kept when it exists; None = nothing is stored.
      fresh: forget earlier starts, which took no step.
      primary: False on all processes but one: they count, and write nothing.
      say: gets a line when the file cannot be used.
      now, wall, boot: monotonic seconds, seconds since the epoch, and `boot_clock`.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        fresh: bool = False,
        primary: bool = True,
        say: Callable[[str], None] = print,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        boot: Callable[[], tuple[str, float]] | None = None,
    ):
        self._path, self._now, self._wall, self._boot = path if primary else None, now, wall, boot or boot_clock
        self._earlier: list[Json] = [] if fresh or self._path is None else read_starts(self._path, say)
        self._known = reached(self._earlier)
        self._compile, self._held = CompileWatch(), ExitStack()
        self._since, self._compiled, self._kept = now(), 0.0, float("-inf")
        self._open: list[tuple[str, str]] = [(NO_STAGE, "startup")]
        self._spent: dict[str, dict[str, float]] = {}
        self._reached: dict[str, int] = {}
        self._processes: dict[str, list[Json]] = {}
        self._repeats = False
        self._began, (self._boot_name, self._up) = wall(), self._boot()
        self._down = self._since_last_start()
        self.ended = "running"

    def __enter__(self) -> Ledger:
        self._held.enter_context(self._compile)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended = "finished" if kind is None else "stopped" if issubclass(kind, Preempted) else "failed"
        self._held.close()
        try:
            self.keep(now=True)
        except OSError:
            if kind is None:  # else the disk is what the run fails for
                raise

    @contextmanager
    def during(self, part: str, stage: str | None = None) -> Iterator[None]:
        """What happens inside counts towards `part`, but for compilation and what an inner part claims."""
        self._settle()
        if part == "step" and self._repeats:
            part = "again"
        self._open.append((self._open[-1][0] if stage is None else stage, part))
        try:
            yield
        finally:
            self._settle()
            self._open.pop()

    def next_step(self, stage: str, n: int) -> None:
        """Step n comes next: whether it counts follows from what earlier starts have reached."""
        self._repeats = n <= self._known.get(stage, 0)

    def took(self, stage: str, n: int) -> None:
        """Step n of a stage has ended."""
        self._reached[stage] = max(n, self._reached.get(stage, 0))

    def processes(self, stage: str, found: list[Json]) -> None:
        """What each process has spent on a stage in this start."""
        self._processes[stage] = found

    def spent(self, stage: str) -> dict[str, float]:
        """Seconds of this start by part, so far."""
        self._settle()
        return self._spent.get(stage, dict.fromkeys(PARTS, 0.0))

    def goodput(self) -> float:
        """Share of the run's wall time that was spent in steps that count."""
        return summary(self._starts())["goodput"]

    def summary(self) -> Json:
        """See `summary` below."""
        return summary(self._starts())

    def keep(self, *, now: bool = False) -> None:
        """Store where the start stands, unless that was done a moment ago."""
        if self._path is not None and (now or self._now() - self._kept >= EVERY):
            self._kept = self._now()
            write_json(self._path, {"starts": self._starts()})

    def _settle(self) -> None:
        """Give the time since the last change to what was open."""
        now, compiled = self._now(), self._compile.seconds
        stage, part = self._open[-1]
        compiling = min(compiled - self._compiled, now - self._since)
        times = self._spent.setdefault(stage, dict.fromkeys(PARTS, 0.0))
        times[part] += now - self._since - compiling
        times["compile"] += compiling
        self._since, self._compiled = now, compiled

    def _starts(self) -> list[Json]:
        self._settle()
        stages = {
            name: {
                "seconds": {part: seconds for part, seconds in times.items() if seconds},
                "reached": self._reached.get(name, 0),
                "processes": self._processes.get(name, []),
            }
            for name, times in self._spent.items()
        }
        clocks = {"began": self._began, "seen": self._wall(), "boot": self._boot_name, "uptime": self._boot()[1]}
        own = {**clocks, DOWN: self._down, "ended": self.ended, "process_count": jax.process_count(), "stages": stages}
        return [*self._earlier, own]

    def _since_last_start(self) -> float:
        """Seconds between the last sign of the start before and this one; 0 where the wall clock went back.

        Nothing waited for this start where the one before had come to the run's end: its budget was raised since.
        """
        if not self._earlier or self._earlier[-1]["ended"] == "finished":
            return 0.0
        last = self._earlier[-1]
        if self._boot_name and last["boot"] == self._boot_name:
            return max(self._up - last["uptime"], 0.0)
        return max(self._began - last["seen"], 0.0)


def boot_clock() -> tuple[str, float]:
    """Name of the machine's present boot, and seconds since it; "" and 0 where the system does not say."""
    try:
        name = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return name, time.clock_gettime(time.CLOCK_BOOTTIME)
    except (OSError, AttributeError):
        return "", 0.0


def read_starts(path: Path, say: Callable[[str], None]) -> list[Json]:
    """Earlier starts; a file that cannot be read is set aside with a word, for the run itself does not need it."""
    try:
        found = read_json(path)
        return [] if found is None else starts_of(found)
    except (RunError, ValueError):
        aside = path.with_name(f"{path.name}.damaged")
        path.replace(aside)
        say(f"warning: {path} is damaged and now {aside.name}: the times of earlier starts are not counted")
        return []
