"""Points and lines over two measured axes as inline SVG in the page's colours."""

from __future__ import annotations

import io
from typing import Any

from jaxpo.evaluate.picture import Marks, Picture
from jaxpo.evaluate.report.charts import COLOURS, GRID, HEIGHT, MUTED, SERIES, WIDTH, add_legend, inline

SHAPES = "Dos^vPX"
"""Of series of few points, beside their colours."""
FEW = 60


def picture_svg(picture: Picture, name: str) -> str:
    """An `<svg>` element.

    Args:
      name: unique in the page; ids inside the drawing start with it.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style = {"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 9, "font.family": "DejaVu Sans"}
    with mpl.rc_context(style):
        figure = Figure(figsize=(WIDTH, HEIGHT + 0.5), layout="constrained")
        axes = figure.add_subplot()
        for i, marks in enumerate(picture.marks):
            _plot(axes, marks, COLOURS[i % SERIES], SHAPES[i % len(SHAPES)])
        _dress(axes, picture)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return inline(out.getvalue(), name)


def _plot(axes: Any, marks: Marks, colour: str, shape: str) -> None:
    if not marks.joined:
        # A cloud shows where points are many; of a few each is looked for.
        how: dict[str, Any] = {"marker": "o", "markersize": 2, "alpha": 0.4}
        if len(marks.x) <= FEW:
            how = {"marker": shape, "markersize": 6, "alpha": 0.9}
        axes.plot(marks.x, marks.y, linestyle="", color=colour, label=marks.label, markeredgewidth=0, **how)
        return
    axes.plot(marks.x, marks.y, color=colour, linewidth=1.6, marker="o", markersize=3.5, label=marks.label)
    if marks.spread is not None:
        axes.vlines(marks.x, *marks.spread, color=colour, linewidth=1.0)


def _dress(axes: Any, picture: Picture) -> None:
    """Labels, a quiet grid, no frame; the diagonal where it means that both axes agree."""
    if picture.diagonal:
        ends = [min(axes.get_xlim()[0], axes.get_ylim()[0]), max(axes.get_xlim()[1], axes.get_ylim()[1])]
        axes.plot(ends, ends, color=MUTED, linewidth=0.8, linestyle=":")
    axes.set_xlabel(picture.x, color=MUTED)
    axes.set_ylabel(picture.y, color=MUTED)
    axes.tick_params(which="both", length=0, colors=MUTED)
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    if len(picture.marks) > 1:
        add_legend(axes, max(len(marks.label) for marks in picture.marks), 1)
    for spine in axes.spines.values():
        spine.set_visible(False)
