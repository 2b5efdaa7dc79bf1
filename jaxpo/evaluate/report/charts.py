"""Small line charts as inline SVG whose colours follow the page's light or dark scheme.

matplotlib draws with placeholder colours; afterwards each is replaced by a CSS variable of the page.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT, GAP = 4.1, 2.5, 0.6
MAX_POINTS = 400
SERIES = 6
PLACEHOLDERS = {
    "#010101": "var(--text)",
    "#020202": "var(--muted)",
    "#030303": "var(--grid)",
    **{f"#0405{i:02d}": f"var(--series-{i})" for i in range(SERIES)},
}
TEXT, MUTED, GRID = list(PLACEHOLDERS)[:3]
COLOURS = list(PLACEHOLDERS)[3:]
DASHES = ("-", "--", ":")
"""Of the first lines, of those that have their colours again, and so on."""


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
      raw: also draw the unsmoothed values faintly when the curve is long.
      markers: a dot at every point (held-out measurements).
    """

    label: str
    steps: Sequence[int]
    values: Sequence[float]
    colour: int = 0
    raw: bool = True
    markers: bool = False


@dataclass(frozen=True)
class Scale:
    """The vertical axis: label with unit, number style, and whether it starts at 0 or is logarithmic."""

    label: str
    from_zero: bool = False
    log: bool = False
    top: float | None = None


def draw(lines: Sequence[Line], scale: Scale, name: str, *, columns: int = 1, legend: bool = False) -> str:
    """An `<svg>` element; its legend stands above the axes.

    Args:
      name: unique in the page; ids inside the drawing start with it.
      columns: of the page's grid that the chart takes.
      legend: also name a single curve.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style = {"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 9, "font.family": "DejaVu Sans"}
    with mpl.rc_context(style):
        figure = Figure(figsize=(columns * WIDTH + (columns - 1) * GAP, HEIGHT), layout="constrained")
        axes = figure.add_subplot()
        for line in lines:
            plot(axes, line)
        dress(axes, scale)
        steps = [s for line in lines for s in line.steps]
        if max(steps) - min(steps) < 2:
            axes.set_xlim(min(steps) - 1, max(steps) + 1)
        if legend or len(lines) > 1:
            add_legend(axes, max(len(line.label) for line in lines), columns)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return inline(out.getvalue(), name)


def plot(axes: Any, line: Line) -> None:
    """Raw values faintly below their running mean; short series as they are."""
    colour = COLOURS[line.colour % SERIES]
    steps, values = thin(line.steps, line.values)
    smooth = line.raw and not line.markers and len(steps) >= 40
    if smooth:
        axes.plot(steps, values, color=colour, linewidth=0.8, alpha=0.3)
        values = running_mean(values, max(3, len(values) // 30))
    small = line.markers or len(steps) <= 12
    axes.plot(
        steps,
        values,
        color=colour,
        linewidth=1.6,
        linestyle=DASHES[line.colour // SERIES % len(DASHES)],
        marker="o" if small else None,
        markersize=3.5,
        label=line.label,
        solid_capstyle="round",
    )


def dress(a: Any, scale: Scale) -> None:
    """Axis labels, ticks, a quiet grid and no frame."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

    a.set_xlabel("step", color=MUTED)
    a.set_ylabel(scale.label, color=MUTED)
    if scale.log:
        a.set_yscale("log")
        a.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    else:
        a.yaxis.set_major_locator(MaxNLocator(5))
    if scale.from_zero:
        a.set_ylim(bottom=0, top=scale.top)
    a.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    for axis in (a.xaxis, a.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda v, _: tick(v)))
        axis.set_minor_formatter(FuncFormatter(lambda v, _: ""))
    a.tick_params(which="both", length=0, colors=MUTED)
    a.grid(True, color=GRID, linewidth=0.8)
    a.set_axisbelow(True)
    a.margins(x=0.02)
    for spine in a.spines.values():
        spine.set_visible(False)


def add_legend(a: Any, longest: int, columns: int) -> None:
    """Above the axes, where it covers no curve; as many entries per line as fit."""
    a.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=max(1, min(4, 44 * columns // (longest + 6))),
        frameon=False,
        labelcolor=TEXT,
        borderaxespad=0.2,
        handlelength=1.4,
    )


def tick(value: float) -> str:
    """A short number: 0.002 -> 2e-3, 12000 -> 12k."""
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:g}M"
    if size >= 1e4:
        return f"{value / 1e3:g}k"
    if 0 < size < 0.01:
        digits, exponent = f"{value:.2e}".split("e")
        return f"{float(digits):g}e{int(exponent)}".replace("-", "−")
    return f"{value:.6g}".replace("-", "−")


def thin(steps: Sequence[int], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """At most MAX_POINTS points: means of equal bins, the first and last point as they are."""
    n = len(steps)
    if n <= MAX_POINTS:
        return list(map(float, steps)), list(values)
    edges = [1 + i * (n - 2) // (MAX_POINTS - 2) for i in range(MAX_POINTS - 1)]
    bins = [(a, b) for a, b in itertools.pairwise(edges) if b > a]
    middle_x = [sum(steps[a:b]) / (b - a) for a, b in bins]
    middle_y = [sum(values[a:b]) / (b - a) for a, b in bins]
    return [steps[0], *middle_x, steps[-1]], [values[0], *middle_y, values[-1]]


def running_mean(values: Sequence[float], half: int) -> list[float]:
    """Centred mean over 2 half + 1 points, cut off at the ends."""
    out = []
    for i in range(len(values)):
        window = values[max(0, i - half) : i + half + 1]
        out.append(sum(window) / len(window))
    return out


def inline(svg: str, name: str) -> str:
    """Strip the XML prologue and metadata, make ids unique, and let the page choose colours and fonts."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.S)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    for placeholder, variable in PLACEHOLDERS.items():
        svg = svg.replace(placeholder, variable)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]+", r"font-size: \1px", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]+"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]+"', r"\1", svg, count=1)
    return re.sub(r"\n\s*", "\n", svg).strip()
