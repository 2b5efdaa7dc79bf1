"""How the mesh divides the work of a mixture of experts, and which rules it could not obey. Imports no jax."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

from jaxpo.config.axes import Rules
from jaxpo.errors import ConfigError

Axes = tuple[str, ...]
Axis = str | Axes | None
EXPERT, WIDTH = "expert", "expert_mlp"


@dataclasses.dataclass(frozen=True)
class Shares:
    """How the devices divide the work: mesh axes, static; those of one device are left out.

    Attributes:
      expert: the axes over which the experts are spread; empty = every device has them all.
      gathered: whether the tokens are spread over those axes too, and so have to be gathered.
      width: the axes over which the width of an expert is spread.
      devices: how many devices have an expert each of their own.
    """

    expert: Axes = ()
    gathered: bool = False
    width: Axes = ()
    devices: int = 1


def shares_of(rows: Axis, columns: Axis, rules: Rules, sizes: Mapping[str, int]) -> Shares:
    """The division of work over tokens that lie on the mesh axes `rows` and `columns`.

    Raises:
      ConfigError: results would be added up over devices that hold different tokens.
    """
    problems = list(share_problems(rows, columns, rules, sizes))
    if problems:
        raise ConfigError(problems)
    expert = spread(rules[EXPERT], sizes)
    gathered = bool(expert) and set(expert) <= set(spread(rows, sizes))
    return Shares(expert, gathered, spread(rules[WIDTH], sizes), devices_of(rules[EXPERT], sizes))


def share_problems(rows: Axis, columns: Axis, rules: Rules, sizes: Mapping[str, int]) -> Iterator[str]:
    """Rules under which devices with different tokens would add up their parts of an expert's result."""
    expert, width = spread(rules[EXPERT], sizes), spread(rules[WIDTH], sizes)
    of_rows, of_columns = set(spread(rows, sizes)), set(spread(columns, sizes))
    for axis in (a for a in width if a in of_rows | of_columns):
        what = "rows" if axis in of_rows else "positions"
        yield (
            f"mesh.rules: {WIDTH} -> {axis}: that axis spreads the {what} of a batch too, and the parts of an expert's "
            f"width add up only where the tokens are the same; choose an axis without tokens (tensor), or None."
        )
    for axis in (a for a in expert if a in of_columns):
        yield (
            f"mesh.rules: {EXPERT} -> {axis}: that axis spreads the positions of a batch, and only rows are gathered "
            "for the experts; choose an axis of the rows (expert) or one without tokens (tensor)."
        )
    if set(expert) & of_rows and not set(expert) <= of_rows:
        yield (
            f"mesh.rules: {EXPERT} -> {', '.join(expert)}: rows of a batch are spread over some of these axes and not "
            "over others; choose axes that all spread rows (expert), or none that does (tensor)."
        )
    for axis in (a for a in expert if a in width):
        yield f"mesh.rules: {EXPERT} and {WIDTH} -> {axis}: one axis cannot spread both; choose another for one."


def spread(axis: Axis, sizes: Mapping[str, int]) -> Axes:
    """The mesh axes of a rule that have more than one device."""
    names = () if axis is None else (axis,) if isinstance(axis, str) else tuple(axis)
    return tuple(name for name in names if sizes[name] > 1)


def devices_of(axis: Axis, sizes: Mapping[str, int]) -> int:
    """Devices over which a rule spreads a dimension."""
    devices = 1
    for name in spread(axis, sizes):
        devices *= sizes[name]
    return devices
