"""A recorded trace, read: which compiled operations took the time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax

from jaxpo.train.trace_proto import Instruction, instructions

OPERATION, MODULE = "hlo_op", "hlo_module"
"""What the profiler calls an event's operation and program."""
TPU_LINE = "XLA Ops"
CONTAINERS = ("while", "conditional", "call")
"""Operations whose time is that of others inside them."""
_UNKNOWN = Instruction("", "", "")


@dataclass(frozen=True)
class Operation:
    """One operation of a compiled program, over all its executions in a trace.

    Attributes:
      operation: its name in the program, and that of the program.
      opcode, name, place: what it is, see `trace_proto.Instruction`.
      calls: executions, on all devices or threads.
      seconds: of all of them, without operations inside.
      share: of the seconds of all operations.
    """

    operation: str
    module: str
    opcode: str
    name: str
    place: str
    calls: int
    seconds: float
    share: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Span:
    """One execution: nanoseconds on one line (thread, stream, core)."""

    key: tuple[str, str]
    start: float
    length: float


def trace_file(folder: Path) -> Path:
    """The newest trace that `jax.profiler` wrote into a folder for this process's host."""
    return max(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)


def costliest(file: Path, n: int) -> list[Operation]:
    """The n operations that took longest in total, longest first; empty where nothing ran.

    Times are the profiler's: of a CPU those of the thread that starts an operation, which others may help; of a GPU
    those of its streams, of a TPU those of its cores.
    """
    raw = file.read_bytes()
    known = instructions(raw)
    calls: dict[tuple[str, str], int] = {}
    seconds: dict[tuple[str, str], float] = {}
    for line in lines(jax.profiler.ProfileData.from_serialized_xspace(raw)):
        for span, own in self_times(line):
            calls[span.key] = calls.get(span.key, 0) + 1
            seconds[span.key] = seconds.get(span.key, 0.0) + own / 1e9
    counted = {key: s for key, s in seconds.items() if known.get(key, _UNKNOWN).opcode not in CONTAINERS}
    whole = sum(counted.values())
    longest = sorted(counted, key=lambda key: (-counted[key], key))[:n]
    return [
        Operation(key[1], key[0], **vars(known.get(key, _UNKNOWN)), calls=calls[key], seconds=s, share=s / whole)
        for key, s in ((key, counted[key]) for key in longest)
        if whole > 0
    ]


def lines(data: Any) -> Iterator[list[Span]]:
    """The executions on each line of a `jax.profiler.ProfileData`: of its devices, else of the CPU."""
    planes = list(data.planes)
    devices = [p for p in planes if p.name.startswith("/device:") and "CUSTOM" not in p.name]
    for plane in devices or [p for p in planes if p.name.startswith("/host:CPU")]:
        found = list(plane.lines)
        of_tpu = [line for line in found if line.name == TPU_LINE]
        for line in of_tpu or found:
            spans = [span for event in line.events if (span := _span(event, named_so=bool(of_tpu))) is not None]
            if spans:
                yield spans


def _span(event: Any, *, named_so: bool) -> Span | None:
    """An event as an execution; None where it is none. A TPU's events are named by the whole instruction."""
    stats = dict(event.stats)
    name = stats.get(OPERATION) or (event.name.partition(" = ")[0].lstrip("%") if named_so else None)
    if name is None:
        return None
    return Span((str(stats.get(MODULE, "")).partition("(")[0], str(name)), event.start_ns, event.duration_ns)


def self_times(spans: Iterable[Span]) -> Iterator[tuple[Span, float]]:
    """Each execution of one line with its own nanoseconds: its length without those that lie inside it."""
    open_spans: list[tuple[Span, list[float]]] = []
    for span in sorted(spans, key=lambda s: (s.start, -s.length)):
        while open_spans and open_spans[-1][0].start + open_spans[-1][0].length <= span.start:
            yield _closed(open_spans)
        if open_spans:
            open_spans[-1][1].append(span.length)
        open_spans.append((span, []))
    while open_spans:
        yield _closed(open_spans)


def _closed(open_spans: list[tuple[Span, list[float]]]) -> tuple[Span, float]:
    span, inside = open_spans.pop()
    return span, max(0.0, span.length - sum(inside))
