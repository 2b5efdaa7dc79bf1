"""Sections on how a run went: where its time was spent, on which process, and what it warned of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from html import escape
from typing import Any

from jaxpo.evaluate.report.page import bar, duration, legend, number, section, table
from jaxpo.evaluate.report.read import RunData
from jaxpo.train.goodput import DOWN, PARTS, behind

LABELS = {
    "step": "steps that count",
    "again": "steps again",
    "compile": "compiling",
    "data": "data",
    "eval": "evaluation",
    "save": "saving",
    "startup": "start-up",
    "work": "work stages",
    "other": "other",
    DOWN: "between starts",
}
ENDED = {
    "running": "killed, or still runs",
    "finished": "finished",
    "stopped": "stopped by a signal",
    "failed": "failed",
}
LEAST = 5e-4
"""Share of the run below which a part is not shown."""
SHOWN = 100
"""Alerts and processes that are listed."""


def times(run: RunData) -> str:
    """Seconds by stage and part, over all starts."""
    found = run.times
    if not found:
        return ""
    parts = [p for p in (*PARTS, DOWN) if found["parts"].get(p, 0.0) >= LEAST * found["seconds"] > 0]
    named = [("run", found), *((stage, of) for stage, of in found["stages"].items())]
    bars = "".join(
        bar(name, [(p, LABELS[p], of["parts"].get(p, 0.0) / of["seconds"]) for p in parts], f"{of['goodput']:.1%}")
        for name, of in named
        if of["seconds"]
    )
    rows = [
        [
            escape(name),
            f"{of['goodput']:.1%}",
            duration(of["seconds"]),
            *(_time(of["parts"].get(p, 0.0)) for p in parts),
        ]
        for name, of in named
    ]
    head = ["", "goodput", "total", *(LABELS[p] for p in parts)]
    note = (
        f"Goodput is the share of steps that count in the wall time of {found['starts']} "
        f"start{'s' if found['starts'] != 1 else ''}; the run's own row holds what belongs to no stage, too."
    )
    colours = legend((p, LABELS[p]) for p in parts)
    body = f'<div class="card">{bars}{colours}</div><div class="card">{table(head, rows)}</div>'
    return section("Where the time went", body, note)


def starts(run: RunData) -> str:
    """One row for each start, where there were several."""
    if len(run.starts) < 2:
        return ""
    rows = []
    for n, start in enumerate(run.starts, 1):
        began = datetime.fromtimestamp(start["began"], UTC).strftime("%Y-%m-%d %H:%M:%S")
        lasted = sum(sum(of["seconds"].values()) for of in start["stages"].values())
        steps = ", ".join(f"{s} {of['reached']:,}" for s, of in start["stages"].items() if of["reached"])
        cells = [
            began,
            duration(start[DOWN]),
            duration(lasted),
            steps or "–",
            str(ENDED.get(start["ended"], start["ended"])),
        ]
        rows.append([str(n), *(escape(c) for c in cells)])
    head = ["start", "began (UTC)", "down before", "lasted", "came to step", "end"]
    return section("Starts", f'<div class="card">{table(head, rows)}</div>')


def processes(run: RunData) -> Iterator[str]:
    """Seconds per step of each process, in the last start of each stage that had several."""
    last: dict[str, Mapping[str, Any]] = {}
    for start in run.starts:
        last |= {stage: of for stage, of in start["stages"].items() if of["processes"]}
    for stage, of in last.items():
        said = of["processes"]
        lags = behind([{"steps": 0, "seconds": {}}] * len(said), said)
        order = sorted(range(len(said)), key=lambda i: -lags[i])
        parts = [p for p in PARTS if any(s["seconds"].get(p) for s in said) and p not in ("startup", "work")]
        rows = [
            [
                escape(f"{i} ({said[i]['host']})"),
                number(lags[i]),
                *(number(said[i]["seconds"].get(p, 0.0) / max(said[i]["steps"], 1)) for p in parts),
                *(number(said[i][m]) if m in said[i] else "–" for m in ("memory_peak_gib", "host_memory_peak_gib")),
            ]
            for i in order[:SHOWN]
        ]
        head = ["process", "behind the others", *(LABELS[p] for p in parts), "device peak, GiB", "host peak, GiB"]
        note = (
            f"Seconds per step since this start began, the slowest of {len(said)} first. Behind the others: its own "
            "time (data, saving, other) above the median of theirs; while one is late, the others wait in the step."
        )
        yield section(f"Processes: {stage}", f'<div class="card">{table(head, rows)}</div>', note)


def alerts(run: RunData) -> str:
    """What the run warned of, newest first."""
    rows = [
        [escape(str(a.get(k, ""))) for k in ("time", "stage", "step", "rule", "message")] for a in reversed(run.alerts)
    ]
    if not rows:
        return ""
    note = f"The newest {SHOWN} of {len(rows)}; all are in alerts.jsonl." if len(rows) > SHOWN else ""
    head = ["time", "stage", "step", "rule", "what"]
    return section("Alerts", f'<div class="card">{table(head, rows[:SHOWN], numeric_from=5)}</div>', note)


def _time(total: float) -> str:
    return duration(total) if total else "–"
