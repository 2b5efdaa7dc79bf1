"""A grid of shares as an inline SVG in the page's colours."""

from __future__ import annotations

import io
from typing import Any

from jaxpo.evaluate.grid import Grid, shown
from jaxpo.evaluate.report.charts import COLOURS, GRID, MUTED, TEXT, inline

CELL, MARGIN = (0.62, 0.36), (1.1, 0.8)
FAINTEST, STRONGEST = 0.06, 0.75
"""How opaque a cell of 0 and of 1 is; the number in it stays readable in both schemes."""


def heat_map(grid: Grid, name: str) -> str:
    """An `<svg>` element: a cell per value, the fuller the larger, with its number.

    Args:
      name: unique in the page; ids inside the drawing start with it.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style = {"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 9, "font.family": "DejaVu Sans"}
    cells = (len(grid.columns), len(grid.rows))
    size = [n * cell + margin for n, cell, margin in zip(cells, CELL, MARGIN, strict=True)]
    with mpl.rc_context(style):
        figure = Figure(figsize=(size[0], size[1]), layout="constrained")
        axes = figure.add_subplot()
        for y, row in enumerate(grid.values):
            for x, value in enumerate(row):
                _cell(axes, x, y, value)
        _dress(axes, grid)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return inline(out.getvalue(), name)


def _cell(axes: Any, x: int, y: int, value: float | None) -> None:
    from matplotlib.patches import Rectangle

    strength = 0.0 if value is None else FAINTEST + (STRONGEST - FAINTEST) * value
    place = (x - 0.48, y - 0.46)
    axes.add_patch(Rectangle(place, 0.96, 0.92, facecolor=COLOURS[0], alpha=strength, linewidth=0))
    axes.add_patch(Rectangle(place, 0.96, 0.92, fill=False, edgecolor=GRID, linewidth=0.8))
    axes.text(x, y, shown(value), ha="center", va="center", color=TEXT, fontsize=8)


def _dress(axes: Any, grid: Grid) -> None:
    """Labels at every cell, the first row on top, no frame."""
    axes.set_xlim(-0.5, len(grid.columns) - 0.5)
    axes.set_ylim(len(grid.rows) - 0.5, -0.5)
    axes.set_xticks(range(len(grid.columns)), grid.columns)
    axes.set_yticks(range(len(grid.rows)), grid.rows)
    axes.set_xlabel(grid.column, color=MUTED)
    axes.set_ylabel(grid.row, color=MUTED)
    axes.tick_params(length=0, colors=MUTED)
    for spine in axes.spines.values():
        spine.set_visible(False)
