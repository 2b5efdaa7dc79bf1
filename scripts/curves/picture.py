"""The picture: four curves of every stage, stages of one name in one colour."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from curves.stages import OnlineRun

Curve = tuple[list[int], list[float]]
PANELS = (
    ("reward", "reward of sampled answers"),
    ("completions/mean_length", "tokens of an answer"),
    ("entropy", "entropy of a token, nats"),
)
SMOOTH = 5
"""Logged steps that a drawn point is the mean of."""


def draw(stages: Sequence[OnlineRun], divergences: Sequence[Curve], out: Path) -> None:
    """Write the picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(stage.name for stage in stages))
    colours = {name: f"C{i}" for i, name in enumerate(names)}
    figure, axes = pyplot.subplots(1, 4, figsize=(15, 3.4))
    for stage, divergence in zip(stages, divergences, strict=True):
        how: dict[str, Any] = {"color": colours[stage.name], "lw": 1.2, "alpha": 0.8}
        for axis, (metric, _) in zip(axes, PANELS, strict=False):
            steps, values = stage.curve(metric)
            axis.plot(*smoothed(steps, values), **how)
        axes[-1].plot(*divergence, marker="o", ms=2.5, **how)
    titles = [title for _, title in PANELS] + ["KL of an answer to the first model, nats"]
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step", fontsize=9)
        axis.grid(color="0.93")
    handles = [pyplot.Line2D([], [], color=colours[name], label=name) for name in names]
    axes[0].legend(handles=handles, frameon=False, fontsize=9)
    figure.tight_layout()
    figure.savefig(out, dpi=100)
    pyplot.close(figure)


def smoothed(steps: Sequence[int], values: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Means of `SMOOTH` neighbours; all there are, where there are fewer."""
    width = max(min(SMOOTH, len(values)), 1)
    kernel = np.ones(width) / width
    return np.convolve(steps, kernel, "valid"), np.convolve(values, kernel, "valid")
