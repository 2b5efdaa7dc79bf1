"""The sections of a report that sets several runs side by side."""

from __future__ import annotations

import dataclasses
from html import escape

from jaxpo.evaluate.report.curves import overlaid_charts
from jaxpo.evaluate.report.page import duration, measured, number, section, table
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
    ("tokens_per_second", "tokens per second"),
)


def distinct_names(runs: list[RunData]) -> list[RunData]:
    """Runs of the same folder name are told apart by their path."""
    names = [run.name for run in runs]
    return [dataclasses.replace(r, name=str(r.path)) if names.count(r.name) > 1 else r for r in runs]


def render(runs: list[RunData]) -> str:
    """The body of the page."""
    names = escape(" vs ".join(run.name for run in runs))
    parts = [f'<header><div class="title"><h1>{names}</h1></div></header>', overview(runs)]
    stages = list(dict.fromkeys(s for run in runs for s in run.metrics))
    for i, stage in enumerate(stages):
        lines = [(run.name, run.metrics.get(stage, [])) for run in runs]
        parts.append(section(stage, overlaid_charts(lines, f"stage{i}")))
    return "\n".join([*parts, probes(runs), differences(runs)])


def overview(runs: list[RunData]) -> str:
    """Last value of the main metrics of each stage, one column per run."""
    rows = [["status", *("finished" if run.finished else "unfinished" for run in runs)]]
    rows.append(["time in training", *(duration(sum(map(seconds, run.metrics.values()))) for run in runs)])
    for stage in dict.fromkeys(s for run in runs for s in run.metrics):
        for metric, label in FINAL:
            values = [series(run.metrics.get(stage, []), metric)[1] for run in runs]
            if any(values):
                rows.append([escape(f"{stage}: {label}"), *(number(v[-1]) if v else "–" for v in values)])
    return section("Overview", f'<div class="card">{table(["last value", *(r.name for r in runs)], rows)}</div>')


def probes(runs: list[RunData]) -> str:
    """Probes of each stage, one column per run."""
    keys = list(dict.fromkeys((s, n) for run in runs for s, found in run.probes.items() for n in found))
    rows = [[escape(f"{s}: {n}"), *(measured(r.probes.get(s, {}).get(n)) for r in runs)] for s, n in keys]
    card = f'<div class="card">{table(["stage: probe", *(r.name for r in runs)], rows)}</div>' if rows else ""
    return section("Results", card, "Below each value the 95% interval and the number of cases.")


def differences(runs: list[RunData]) -> str:
    """The configuration values in which the runs differ."""
    flats = [dict(flat(run.config)) for run in runs]
    keys = [k for k in dict.fromkeys(k for f in flats for k in f) if len({f.get(k) for f in flats}) > 1]
    if not keys:
        return section("Configuration", '<p class="muted">All runs have the same configuration.</p>')
    rows = [[escape(k), *(escape(f.get(k, "–")) for f in flats)] for k in keys]
    return section("Configuration", f'<div class="card">{table(["differs", *(r.name for r in runs)], rows)}</div>')
