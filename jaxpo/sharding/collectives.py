"""What devices send one another in a compiled program, read from its text: kinds, mesh axes, counts and bytes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from jaxpo.sharding.groups import axes_of_groups, axes_of_pairs

KINDS = (
    *("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all"),
    *("collective-permute", "collective-broadcast"),
)
BITS = {
    **{"pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "s32": 32, "u32": 32, "s64": 64, "u64": 64},
    **{"f16": 16, "bf16": 16, "f32": 32, "f64": 64, "c64": 64, "c128": 128},
}
"""Of a value; the types of one byte that begin with f8 are left out."""

_COLLECTIVE = re.compile(rf"^\s+(?:ROOT )?%?[\w.-]+ = (.*?) ({'|'.join(KINDS)})(-start)?\(")
_ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.-]+)\b.*\{\s*$")
_CALLED = re.compile(r"\b(?:body|condition|calls|to_apply|true_computation|false_computation)=%?([\w.-]+)")
_BRANCHES = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_LATER = re.compile(r"-(?:done|update)\(")

Shape = tuple[str, tuple[int, ...]]


@dataclass(frozen=True)
class Collective:
    """One instruction.

    Attributes:
      kind: as XLA names it, without "-start".
      axes: mesh axes along which its devices differ, in the order of the mesh.
      shapes: type and sizes of every array that a device has after it.
      members: devices that take part together.
      count: how often it runs in one call of the program; the body of a loop of unknown length counts once, of the
        branches of a condition each.
      unknown: it stands in such a loop.
    """

    kind: str
    axes: tuple[str, ...]
    shapes: tuple[Shape, ...]
    members: int
    count: int = 1
    unknown: bool = False

    @property
    def bytes(self) -> int:
        """Of the arrays that its devices hold together: the result, of a reduce-scatter what goes into it."""
        whole = self.members if self.kind == "reduce-scatter" else 1
        return whole * sum(bytes_of(shape) for shape in self.shapes)


def bytes_of(shape: Shape) -> int:
    """Of an array of that type and those sizes."""
    dtype, sizes = shape
    bits = 8 if dtype.startswith("f8") else BITS[dtype]
    return -(-bits * math.prod(sizes) // 8)


def collectives(text: str, mesh: Mapping[str, int]) -> list[Collective]:
    """Every collective of a compiled program that moves anything, in the order of the text.

    Args:
      text: of the program, as `compiled.as_text()` gives it.
      mesh: axis -> devices, of the mesh that it was compiled for.

    Raises:
      ValueError: groups of devices in a form that is not known.
    """
    bodies = dict(_computations(text))
    runs = _runs(bodies)
    found = []
    for name, lines in bodies.items():
        count, unknown = runs.get(name, (0, False))
        for line in lines if count else ():
            match = _COLLECTIVE.match(line)
            if match is None:
                continue
            types, kind, start = match.groups()
            axes, members = _devices(kind, line, mesh)
            if axes:
                found.append(Collective(kind, axes, _shapes(types, kind, start is not None), members, count, unknown))
    return found


@dataclass(frozen=True)
class Total:
    """All collectives of one kind along the same axes.

    Attributes:
      count: in one call of the program.
      bytes: of all of them.
      largest: bytes of the largest.
    """

    count: int
    bytes: int
    largest: int


def totals(found: Iterable[Collective]) -> dict[tuple[str, tuple[str, ...]], Total]:
    """(kind, axes) -> how many there are and what they carry."""
    table: dict[tuple[str, tuple[str, ...]], Total] = {}
    for one in found:
        old = table.get((one.kind, one.axes), Total(0, 0, 0))
        table[one.kind, one.axes] = Total(
            old.count + one.count, old.bytes + one.count * one.bytes, max(old.largest, one.bytes)
        )
    return dict(sorted(table.items()))


def _computations(text: str) -> Iterator[tuple[str, list[str]]]:
    """Name -> lines; that of the entry is ""."""
    name: str | None = None
    lines: list[str] = []
    for line in text.splitlines():
        if line[:1] not in (" ", "\t", "}", "") and not line.startswith("HloModule"):
            header = _HEADER.match(line)
            if header is not None:
                name, lines = "" if header[1] else header[2], []
        elif line.startswith("}"):
            if name is not None:
                yield name, lines
            name = None
        elif name is not None:
            lines.append(line)


def _runs(bodies: Mapping[str, list[str]]) -> dict[str, tuple[int, bool]]:
    """Computation -> how often it runs, and whether it stands in a loop of unknown length."""
    calls = {name: list(_calls(lines)) for name, lines in bodies.items()}
    runs: dict[str, tuple[int, bool]] = {}

    def visit(name: str, count: int, unknown: bool) -> None:
        before = runs.get(name, (0, False))
        runs[name] = (before[0] + count, before[1] or unknown)
        for called, times in calls.get(name, ()):
            visit(called, count * (times or 1), unknown or times is None)

    visit("", 1, False)
    return runs


def _calls(lines: Iterable[str]) -> Iterator[tuple[str, int | None]]:
    """Computations that these instructions call, and how often each; None where that is not known."""
    for line in lines:
        if "=%" not in line and "={%" not in line and "_computation" not in line and "calls=" not in line:
            continue
        if _LATER.search(line):
            continue
        times: int | None = 1
        if " while(" in line:
            trips = _TRIPS.search(line)
            times = None if trips is None else int(trips[1])
        for called in _CALLED.findall(line):
            yield called, times
        for names in _BRANCHES.findall(line):
            for called in names.split(","):
                yield called.strip().lstrip("%"), 1


def _shapes(types: str, kind: str, start: bool) -> tuple[Shape, ...]:
    """Results of a collective; the tuple of one that is started holds its operands before them, and context after."""
    arrays = [(dtype, tuple(int(n) for n in sizes.split(",") if n)) for dtype, sizes in _ARRAY.findall(types)]
    if start and kind == "all-gather":
        return tuple(arrays[len(arrays) // 2 :])
    if start and kind != "all-reduce":
        return tuple(arrays[1:2])
    return tuple(arrays)


def _devices(kind: str, line: str, mesh: Mapping[str, int]) -> tuple[tuple[str, ...], int]:
    """Mesh axes along which the devices of one group differ, and how many they are."""
    if kind == "collective-permute":
        return axes_of_pairs(line, mesh), 2
    return axes_of_groups(line, mesh)
