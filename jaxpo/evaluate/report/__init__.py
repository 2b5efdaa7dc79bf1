"""One self-contained HTML file about one run, or about several compared. Reads a run directory, nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jaxpo.evaluate.report.compare as compare
import jaxpo.evaluate.report.sections as sections
from jaxpo.errors import writing
from jaxpo.evaluate.report.page import page
from jaxpo.evaluate.report.read import read_run


def write_report(run_dir: Path | str) -> Path:
    """Write `report.html` into a run directory, finished or not.

    Returns:
      path of the report.

    Raises:
      RunError: not a run directory, or one of its files is broken (named, with the line).
    """
    run = read_run(Path(run_dir))
    path = run.path / "report.html"
    with writing(path):
        path.write_text(page(f"{run.name}: jaxpo report", sections.render(run)), encoding="utf-8")
    return path


def comparison_text(run_dirs: Sequence[Path | str]) -> str:
    """The tables of a comparison, for a terminal.

    Raises:
      RunError: as `write_report`.
    """
    return compare.as_text(compare.distinct_names([read_run(Path(d)) for d in run_dirs]))


def write_comparison(run_dirs: Sequence[Path | str], out: Path | str) -> Path:
    """Write one report in which the curves of several runs are overlaid and their results stand side by side.

    Raises:
      RunError: as `write_report`.
    """
    runs = compare.distinct_names([read_run(Path(d)) for d in run_dirs])
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    title = " vs ".join(run.name for run in runs)
    with writing(path):
        path.write_text(page(f"{title}: jaxpo comparison", compare.render(runs)), encoding="utf-8")
    return path
