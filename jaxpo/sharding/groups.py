"""Groups of devices as XLA writes them, and the mesh axes along which their devices differ."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

# `{{0,1},{2,3}}`, `[2,4]<=[4,2]T(1,0)` and `mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}`.
_LISTED = re.compile(r"replica_groups=\{((?:\{[\d,]*\},?)*)\}")
_IOTA = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(
    r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((?:\[([\d,]+)\](?:T\(([\d,]+)\))?)\))? \{([^}]*)\}"
)
_PAIRS = re.compile(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}")


def axes_of_groups(line: str, mesh: Mapping[str, int]) -> tuple[tuple[str, ...], int]:
    """Axes that vary within the groups of an instruction, and the devices of each group.

    Args:
      line: with `replica_groups=`; devices are numbered in the order of the mesh.
      mesh: axis -> devices.

    Raises:
      ValueError: a form that is not known.
    """
    groups = _groups(line, int(np.prod(list(mesh.values()))))
    return _varying(groups, mesh), groups.shape[1]


def axes_of_pairs(line: str, mesh: Mapping[str, int]) -> tuple[str, ...]:
    """Axes along which the sources and targets of a permutation differ."""
    found = _PAIRS.search(line)
    if found is None:
        raise ValueError(f"no pairs of devices in: {line.strip()[:200]}")
    pairs = [[int(n) for n in pair.split(",")] for pair in re.findall(r"\{(\d+,\d+)\}", found[1])]
    return _varying(np.asarray(pairs, np.int64).reshape(-1, 2), mesh)


def _groups(line: str, devices: int) -> np.ndarray:
    """`[groups, members]` numbers of devices."""
    if found := _IOTA.search(line):
        groups, members, sizes, order = found.groups()
        return _numbers(sizes, order).reshape(int(groups), int(members))
    if found := _MESH.search(line):
        axes, sizes, order, along = found.groups()
        return _mesh_groups(axes, _numbers(sizes or str(devices), order), along)
    if found := _LISTED.search(line):
        rows = [[int(n) for n in group.split(",")] for group in re.findall(r"\{([\d,]+)\}", found[1])]
        return np.asarray(rows or [list(range(devices))], np.int64)
    raise ValueError(f"groups of devices in a form that is not known: {line.strip()[:300]}")


def _numbers(sizes: str, order: str | None) -> np.ndarray:
    """0, 1, ... in an array of these sizes, whose axes are then put into this order."""
    shape = [int(n) for n in sizes.split(",")]
    numbers = np.arange(np.prod(shape)).reshape(shape)
    return numbers if order is None else numbers.transpose([int(n) for n in order.split(",")])


def _mesh_groups(axes: str, numbers: np.ndarray, along: str) -> np.ndarray:
    """Groups along some axes of a mesh that XLA made up; `'a':(2)4` is the middle one of an axis cut in three."""
    sizes = {name: int(n) for name, n in re.findall(r"'([^']+)'=(\d+)", axes)}
    wanted = {
        name: (int(p or 1), int(n or sizes[name])) for name, p, n in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", along)
    }
    shape, moved = [], []
    for name, size in sizes.items():
        before, inside = wanted.get(name, (size, 1))
        shape += [before, inside, size // (before * inside)]
        if name in wanted:
            moved.append(len(shape) - 2)
    rest = [i for i in range(len(shape)) if i not in moved]
    members = int(np.prod([shape[i] for i in moved]))
    return numbers.reshape(shape).transpose(rest + moved).reshape(-1, members)


def _varying(groups: np.ndarray, mesh: Mapping[str, int]) -> tuple[str, ...]:
    coordinates = np.unravel_index(groups, tuple(mesh.values()))
    return tuple(axis for axis, at in zip(mesh, coordinates, strict=True) if (at != at[:, :1]).any())
