"""What a report that sets several runs side by side says, as tables for a page and for a terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from statistics import median
from typing import Any

from jaxpo.evaluate.report.curves import overlaid_charts
from jaxpo.evaluate.report.page import duration, measured_lines, number, section, table
from jaxpo.evaluate.report.read import RunData, seconds, series
from jaxpo.evaluate.report.sections import flat

FINAL = (
    ("loss", "training loss"),
    ("eval_loss", "held-out loss"),
    ("rewards/accuracies", "reward accuracy"),
    ("eval_rewards/accuracies", "held-out reward accuracy"),
    ("eval_rewards/margins", "held-out reward margin"),
    ("eval_accuracy", "held-out accuracy"),
    ("eval_mean_token_accuracy", "held-out token accuracy"),
)
SPEED = (
    ("tokens_per_second", "tokens per second", median),
    ("tokens_per_second_per_device", "tokens per second and device", median),
    ("step_time", "seconds per step", median),
    ("step_time_max", "longest step, seconds", max),
    ("mfu", "MFU", median),
    ("memory_peak_gib", "device memory peak, GiB", max),
    ("host_memory_peak_gib", "host memory peak, GiB", max),
)
"""Metric, what it is called, and how its lines become one figure."""
NONE = "–"


@dataclass(frozen=True)
class Table:
    """One column per run; a cell's second line, after a line break, is small print.

    Attributes:
      corner: what stands above the names of the rows.
      empty: said where there are no rows; "" = nothing at all.
    """

    title: str
    corner: str
    rows: list[list[str]]
    note: str = ""
    empty: str = ""


def distinct_names(runs: list[RunData]) -> list[RunData]:
    """Runs of the same folder name are told apart by their path."""
    names = [run.name for run in runs]
    return [dataclasses.replace(r, name=str(r.path)) if names.count(r.name) > 1 else r for r in runs]


def render(runs: list[RunData]) -> str:
    """The body of the page."""
    names = escape(" vs ".join(run.name for run in runs))
    first, *others = tables(runs)
    parts = [f'<header><div class="title"><h1>{names}</h1></div></header>', as_html(first, runs)]
    for i, stage in enumerate(stages_of(runs)):
        lines = [(run.name, run.metrics.get(stage, [])) for run in runs]
        parts.append(section(stage, overlaid_charts(lines, f"stage{i}")))
    return "\n".join([*parts, *(as_html(t, runs) for t in others)])


def tables(runs: list[RunData]) -> list[Table]:
    """Overview, speed, data, results, and what differs in the configurations."""
    return [overview(runs), speed(runs), data(runs), probes(runs), differences(runs)]


def stages_of(runs: list[RunData]) -> list[str]:
    """Names of the stages that any of the runs has begun, in order."""
    return list(dict.fromkeys(s for run in runs for s in run.metrics))


def overview(runs: list[RunData]) -> Table:
    """How far the runs came, where their time went, and the last value of the main metrics of each stage."""
    rows = [["status", *("finished" if run.finished else "unfinished" for run in runs)]]
    rows.append(["time in training", *(duration(sum(map(seconds, run.metrics.values()))) for run in runs)])
    times = [run.times for run in runs]
    if any(times):
        rows.append(["goodput", *(f"{t['goodput']:.1%}" if t else NONE for t in times)])
        rows.append(["wall time, all starts", *(duration(t["seconds"]) if t else NONE for t in times)])
        rows.append(["starts", *(str(t["starts"]) if t else NONE for t in times)])
    if any(run.alerts for run in runs):
        rows.append(["alerts", *(str(len(run.alerts)) for run in runs)])
    for stage in stages_of(runs):
        reached = [[r["step"] for r in run.metrics.get(stage, [])] for run in runs]
        rows.append([f"{stage}: steps", *(f"{max(steps):,}" if steps else NONE for steps in reached)])
        rows += filled(runs, stage, [(name, label, last) for name, label in FINAL])
    return Table("Overview", "last value", rows)


def speed(runs: list[RunData]) -> Table:
    """Median speed and highest use of memory of each stage."""
    rows = [row for stage in stages_of(runs) for row in filled(runs, stage, SPEED)]
    return Table("Speed and memory", "median or peak", rows, "Of the lines of metrics.jsonl; without compilation.")


def filled(runs: list[RunData], stage: str, wanted: Sequence[tuple[str, str, Any]]) -> Iterator[list[str]]:
    """A row for each metric that any run has in this stage."""
    for metric, label, merge in wanted:
        found = [series(run.metrics.get(stage, []), metric)[1] for run in runs]
        if any(found):
            yield [f"{stage}: {label}", *(number(merge(v)) if v else NONE for v in found)]


def last(values: Sequence[float]) -> float:
    """The newest value."""
    return values[-1]


def data(runs: list[RunData]) -> Table:
    """Examples and tokens of each stage's files, and the tokens that were trained on."""
    rows = []
    for stage in dict.fromkeys(s for run in runs for s in (*run.counts, *run.metrics)):
        counts = [run.counts.get(stage, {}) for run in runs]
        for key, label in (("kept", "examples"), ("tokens", "tokens in the files")):
            if any(key in c for c in counts):
                rows.append([f"{stage}: {label}", *(number(c[key]) if key in c else NONE for c in counts)])
        rows += filled(runs, stage, [("num_tokens", "tokens trained", last), ("epoch", "epochs", last)])
    return Table("Data", "", rows)


def probes(runs: list[RunData]) -> Table:
    """Probes of each stage."""
    keys = list(dict.fromkeys((s, n) for run in runs for s, found in run.probes.items() for n in found))
    rows = [[f"{s}: {n}", *("\n".join(measured_lines(r.probes.get(s, {}).get(n))) for r in runs)] for s, n in keys]
    return Table("Results", "stage: probe", rows, "With each value the 95% interval and the number of cases.")


def differences(runs: list[RunData]) -> Table:
    """The configuration values in which the runs differ; of a stage that some do not have, its kind alone."""
    flats = [dict(flat(run.config)) for run in runs]
    keys = [k for k in dict.fromkeys(k for f in flats for k in f) if len({f.get(k) for f in flats}) > 1]
    names = {str(stage.get("name")) for run in runs for stage in run.stages}
    absent = {name for name in names if not all(name in f for f in flats)}
    keys = [k for k in keys if k.partition(".")[0] not in absent or k in absent]
    rows = [[k, *(f.get(k, NONE) for f in flats)] for k in keys]
    return Table("Configuration", "differs", rows, empty="All runs have the same configuration.")


def as_html(found: Table, runs: list[RunData]) -> str:
    """A section of the page."""
    if not found.rows:
        return section(found.title, f'<p class="muted">{escape(found.empty)}</p>') if found.empty else ""
    rows = [[escape(name), *map(cell, cells)] for name, *cells in found.rows]
    body = f'<div class="card">{table([found.corner, *(r.name for r in runs)], rows)}</div>'
    return section(found.title, body, found.note)


def cell(text: str) -> str:
    """A cell of the page, with its small print."""
    value, _, small = text.partition("\n")
    return escape(value) + (f"<small>{escape(small)}</small>" if small else "")


def as_text(runs: list[RunData]) -> str:
    """All tables for a terminal."""
    blocks = []
    for found in tables(runs):
        if found.rows:
            rows = [
                [found.title, *(run.name for run in runs)],
                *([c.replace("\n", "  ") for c in r] for r in found.rows),
            ]
            blocks.append(aligned(rows))
        elif found.empty:
            blocks.append(f"{found.title}: {found.empty}")
    return "\n\n".join(blocks)


def aligned(rows: list[list[str]]) -> str:
    """Rows in columns: names on the left, values on the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in rows
    )
