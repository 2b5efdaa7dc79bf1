"""Power laws of a held-out loss over the steps of runs, beside one another: of several sizes, or several data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from jaxpo.errors import ConfigError
from jaxpo.evaluate.power_law import LEAST, PowerLaw, fit, fit_floor
from jaxpo.evaluate.report.read import RunData, read_run

HEAD = ("run", "stage", "points", "exponent b", "95% interval", "R^2", "floor")


def scaling_lines(paths: Sequence[Path], metric: str, *, floor: bool) -> list[str]:
    """A table: one row per run and stage that was evaluated at three steps or more.

    Args:
      metric: a held-out loss, such as `eval_loss`.
      floor: whether a floor is fitted too.

    Raises:
      ConfigError: no stage has the metric often enough, or one whose values are not above 0.
    """
    rows = [row for path in paths for row in _rows(read_run(path), metric, floor)]
    if not rows:
        raise ConfigError(
            f"--scaling {metric}: no stage was evaluated at {LEAST} steps; set eval_steps, or name a metric that "
            "metrics.jsonl holds."
        )
    cells = [HEAD, *rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(HEAD))]
    return ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]


def _rows(run: RunData, metric: str, floor: bool) -> Iterator[tuple[str, ...]]:
    for stage, records in run.metrics.items():
        points = {int(one["step"]): float(one[metric]) for one in records if metric in one and one["step"] > 0}
        if len(points) < LEAST:
            continue
        if min(points.values()) <= 0:
            raise ConfigError(f"--scaling {metric}: of {run.name}, {stage}, is not above 0; a power law is of a loss.")
        yield _row(run.name, stage, (fit_floor if floor else fit)(list(points), list(points.values())))


def _row(run: str, stage: str, law: PowerLaw) -> tuple[str, ...]:
    between = f"[{law.low:+.4f}, {law.high:+.4f}]"
    return (run, stage, str(law.points), f"{law.exponent:+.4f}", between, f"{law.r_squared:.4f}", f"{law.floor:.4f}")
