"""Points and lines over two measured axes, which a report draws. Imports no jax."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PICTURES, TABLES = "pictures", "tables"
"""What a work stage may report beside counts: charts, as `dataclasses.asdict(Picture(...))`, and tables:
{"title": text, "head": [text], "rows": [[text or number]]}."""


@dataclass(frozen=True)
class Marks:
    """One series.

    Attributes:
      x, y: `[n]`.
      joined: by a line; else single points.
      spread: low and high end of each y, `[n]` each, drawn as bars; None without.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    joined: bool = True
    spread: tuple[Sequence[float], Sequence[float]] | None = None


@dataclass(frozen=True)
class Picture:
    """A chart.

    Attributes:
      x, y: what the axes are.
      diagonal: draw x = y, where both axes are the same quantity.
    """

    title: str
    x: str
    y: str
    marks: tuple[Marks, ...]
    diagonal: bool = False
