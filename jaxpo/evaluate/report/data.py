"""What a report says of a run's data: rows read and left out, and the sources of a mixture."""

from __future__ import annotations

from html import escape

from jaxpo.evaluate.report.page import number, section, table
from jaxpo.evaluate.report.read import RunData

LISTED = ("dropped", "sources", "bad_rows")
"""Counts that are tables of their own."""


def data_counts(run: RunData) -> str:
    """Examples read, kept, truncated and dropped, by reason."""
    if not run.counts:
        return ""
    kinds = list(dict.fromkeys(("read", "kept", *(k for c in run.counts.values() for k in c if k not in LISTED))))
    reasons = list(dict.fromkeys(r for c in run.counts.values() for r in (c.get("dropped") or {})))
    head = ["stage", *kinds, *(f"dropped: {r}" for r in reasons)]
    rows = []
    for stage, count in run.counts.items():
        dropped = count.get("dropped") or {}
        values = [count.get(k, 0) for k in kinds] + [dropped.get(r, 0) for r in reasons]
        rows.append([escape(stage), *(number(v) for v in values)])
    head = [h.replace("_", " ") for h in head]
    cards = f'<div class="card">{table(head, rows)}</div>{data_sources(run)}{bad_rows(run)}'
    return section("Data", cards, "Examples of each stage's training files.")


def data_sources(run: RunData) -> str:
    """Of every mixture the sources: what they hold, their share of the tokens, how far the stage went through them."""
    head = ["stage", "source", "examples", "tokens", "share of the tokens", "tokens trained on", "epochs"]
    rows = []
    for stage, count in run.counts.items():
        lines = run.metrics.get(stage, [])
        for name, source in (count.get("sources") or {}).items():
            seen = {k: [x[f"{k}/{name}"] for x in lines if f"{k}/{name}" in x] for k in ("num_tokens", "epoch")}
            own = [source["examples"], source["tokens"], source["share"]]
            ended = [values[-1] if values else 0 for values in seen.values()]
            rows.append([escape(stage), escape(name), *(number(v) for v in (*own, *ended))])
    return f'<div class="card">{table(head, rows)}</div>' if rows else ""


def bad_rows(run: RunData) -> str:
    """Rows that were left out because they cannot be used."""
    rows = [
        [escape(stage), escape(str(row["file"])), str(row["row"]), escape(str(row["problem"]))]
        for stage, count in run.counts.items()
        for row in count.get("bad_rows") or ()
    ]
    return f'<div class="card">{table(["stage", "file", "row", "left out because"], rows)}</div>' if rows else ""
