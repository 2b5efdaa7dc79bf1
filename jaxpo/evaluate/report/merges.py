"""The section on searches for a merge: what was tried, what was chosen, and what that reaches on other files."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

from jaxpo.evaluate.merge_report import better_input
from jaxpo.evaluate.report.page import measured, number, section, table
from jaxpo.evaluate.report.read import RunData
from jaxpo.evaluate.selection import LOWER_IS_BETTER

TITLES = {
    "report": "On the report files: these figures can be quoted.",
    "select": "On the selection files, which chose: the best of many is partly so by luck.",
}


def merges(run: RunData) -> Iterator[str]:
    """One section per merge stage that searched."""
    for stage, found in (run.summary.get("merges") or {}).items():
        cards = [f'<div class="card"><h3>{title}</h3>{rows(found, on)}</div>' for on, title in TITLES.items()]
        yield section(f"{stage}: {found['best']}", "\n".join(cards), note(found))


def note(found: dict[str, Any]) -> str:
    """How candidates were compared, and whether a model that went in is better still."""
    score = " ".join(
        f"{'−' if name in LOWER_IS_BETTER else '+'} {weight:g} {name}" for name, weight in found["metrics"]
    )
    tried = sum(row["kind"] == "merge" and row["on"] == "select" for row in found["rows"])
    above = better_input(found)
    more = "" if above is None else f" {above['label']}, which went in, scores better than every merge."
    return f"The best of {tried} merges by {score.removeprefix('+ ')}.{more}"


def rows(found: dict[str, Any], on: str) -> str:
    """One line per model, the best first."""
    names = [name for name, _ in found["metrics"]]
    ordered = sorted((r for r in found["rows"] if r["on"] == on), key=lambda r: -r["score"])
    body = []
    for row in ordered:
        label = escape(row["label"]) + (" (went in)" if row["kind"] == "input" else "")
        label = f"<strong>{label}</strong>" if row["label"] == found["best"] else label
        body.append([label, *(measured(row["measured"][name]) for name in names), number(row["score"])])
    return table(["", *names, "score"], body)
