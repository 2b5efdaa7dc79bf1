"""Duels of two answers: how a judge of them is asked, and how far it is from an antisymmetric oracle."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from jaxpo.data.rows.formats import Row
from jaxpo.errors import ConfigError
from jaxpo.judges.asking import Item

OPPONENT = "opponent"
"""The column of a row in which a judge of duels finds the other answer."""
ASYMMETRY = "asymmetry"
TOLERANCE = 0.05
"""A mean asymmetry of an oracle above this is said as a warning."""
Ways = tuple[float, float]
"""p(a, b) and p(b, a)."""


def rows_of_duels(rows: Iterable[Row]) -> list[Row]:
    """Rows as a judge of duels sees them, before there is an opponent.

    Raises:
      DataError: they have a column of the opponent's name.
    """
    rows = list(rows)
    for row in rows:
        if OPPONENT in row.data:
            raise row.error(
                "the column is where a judge of duels finds the other answer.",
                field=OPPONENT,
                remedy="Rename the column.",
            )
    return [replace(row, data={**row.data, OPPONENT: ""}) for row in rows]


def against(item: Item, opponent: str) -> Item:
    """An answer as a judge of duels sees it."""
    return replace(item, row=replace(item.row, data={**item.row.data, OPPONENT: opponent}))


def check_probabilities(values: Iterable[float | None], remedy: str) -> None:
    """Refuse a judge of duels that gives no probabilities; ConfigError."""
    for p in values:
        if p is not None and not 0 <= p <= 1:
            raise ConfigError(
                f"the judge of duels gave {p:g}, which is no probability of winning; give numbers in [0, 1], "
                f"or {remedy}"
            )


def asymmetry(duels: Sequence[Ways]) -> float:
    """Mean of `|p(a, b) + p(b, a) - 1|` over duels that were asked both ways round: half of `jaxpo.losses.asymmetry`,
    whose P is 2 p - 1; 0 without any."""
    from jaxpo import losses

    if not duels:
        return 0.0
    tables = np.zeros((len(duels), 2, 2))
    tables[:, 0, 1], tables[:, 1, 0] = 2.0 * np.asarray(duels, np.float64).T - 1.0
    others = np.broadcast_to(~np.eye(2, dtype=bool), tables.shape)
    return float(np.mean(losses.asymmetry(tables, others))) / 2.0
