"""What a search for the best merge found: a table in Markdown, JSON, and a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxpo.evaluate.selection import LOWER_IS_BETTER
from jaxpo.train.files import write_atomic, write_json

Record = Mapping[str, Any]
"""{"label", "kind": "merge" or "input", "on": "select" or "report", "score", "measured": {metric: measurement}}."""


def write_search(folder: Path, best: str, metrics: Sequence[tuple[str, float]], rows: Sequence[Record]) -> None:
    """Write `search.json`, `search.md` and `search.png`.

    Args:
      best: label of the chosen merge.
      rows: of both sets of files.
    """
    document = {"best": best, "metrics": [list(m) for m in metrics], "rows": [dict(row) for row in rows]}
    write_json(folder / "search.json", document)
    write_atomic(folder / "search.md", markdown(document))
    plot(folder / "search.png", document)


def better_input(document: Record) -> Record | None:
    """The model that went in and beats the best merge on the selection files, if there is one."""
    rows = [r for r in document["rows"] if r["on"] == "select"]
    chosen = next(r for r in rows if r["label"] == document["best"])
    above = [r for r in rows if r["kind"] == "input" and r["score"] > chosen["score"]]
    return max(above, key=lambda r: r["score"], default=None)


def markdown(document: Record) -> str:
    """Both tables with the sentence that says which one to quote."""
    metrics = [name for name, _ in document["metrics"]]
    score = " + ".join(f"{'-' if name in LOWER_IS_BETTER else ''}{w:g} {name}" for name, w in document["metrics"])
    lines = [f"# Search for a merge: {document['best']}", "", f"Score: {score.replace('+ -', '- ')}.", ""]
    above = better_input(document)
    if above is not None:
        lines += [f"**{above['label']}, which went in, scores better than every merge.**", ""]
    titles = {
        "report": "On the report files (these figures can be quoted)",
        "select": "On the selection files (the best of many is partly so by luck)",
    }
    for on, title in titles.items():
        rows = sorted((r for r in document["rows"] if r["on"] == on), key=lambda r: -r["score"])
        lines += [f"## {title}", "", f"| model | {' | '.join(metrics)} | score |"]
        lines += ["|---|" + "---|" * (len(metrics) + 1)]
        for row in rows:
            name = f"**{row['label']}**" if row["label"] == document["best"] else row["label"]
            name += " (input)" if row["kind"] == "input" else ""
            cells = [cell(row["measured"][m]) for m in metrics]
            lines.append(f"| {name} | {' | '.join(cells)} | {row['score']:.4f} |")
        lines.append("")
    return "\n".join(lines)


def cell(found: Record) -> str:
    """A value with its 95% interval."""
    low, high = found.get("low"), found.get("high")
    return f"{found['value']:.4f}" + (f" [{low:.4f}, {high:.4f}]" if low is not None and high is not None else "")


def plot(path: Path, document: Record) -> None:
    """One panel per metric: every candidate on the selection files by score, its interval, the inputs as lines."""
    from matplotlib.figure import Figure

    rows = sorted((r for r in document["rows"] if r["on"] == "select"), key=lambda r: r["score"])
    merges = [r for r in rows if r["kind"] == "merge"]
    metrics = [name for name, _ in document["metrics"]]
    figure = Figure(figsize=(2.6 + 3.4 * len(metrics), 1.4 + 0.24 * len(merges)), layout="constrained")
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for panel, metric in zip(panels, metrics, strict=True):
        for at, row in enumerate(merges):
            found = row["measured"][metric]
            best = row["label"] == document["best"]
            colour = "#c0392b" if best else "#2c5f8a"
            if found.get("low") is not None:
                panel.plot([found["low"], found["high"]], [at, at], color=colour, linewidth=1, alpha=0.5)
            panel.plot(found["value"], at, "o", color=colour, markersize=6 if best else 4)
        for number, row in enumerate(r for r in rows if r["kind"] == "input"):
            value = row["measured"][metric]["value"]
            style = ("--", ":", "-.")[number % 3]
            panel.axvline(value, color="#888888", linestyle=style, linewidth=1, label=row["label"])
        panel.set_xlabel(f"{metric} ({'less' if metric in LOWER_IS_BETTER else 'more'} is better)")
        panel.grid(axis="x", alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(merges)), [r["label"] for r in merges], fontsize=8)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=8, frameon=False
    )
    figure.savefig(path, dpi=120)
