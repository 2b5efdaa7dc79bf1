"""Results as JSON, as tables for a reader, and as one plot."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.arithmetic import Spread, advantage, rate, reference, share
from benchmarks.work import Result, Row, Table

BEGIN, END = "<!-- scripts/bench: begin -->", "<!-- scripts/bench: end -->"
README, PLOT = "README.md", "ratios.png"
Entry = dict[str, Any]


def entry(key: str, title: str, goal: str, result: Result, about: Entry) -> Entry:
    """All that is kept of a benchmark: what JSON holds."""
    return {"key": key, "title": title, "goal": goal, **about, "result": dataclasses.asdict(result)}


def result_of(found: Entry) -> Result:
    """The result that `entry` was made of."""
    stored = found["result"]
    tables = tuple(Table(t["title"], t["unit"], tuple(_row(r) for r in t["rows"])) for t in stored["tables"])
    ceilings = {name: (value, unit) for name, (value, unit) in stored["ceilings"].items()}
    return Result(tables, ceilings, tuple(stored["notes"]))


def _row(stored: Entry) -> Row:
    return Row(**{**stored, "wall": tuple(stored["wall"]), "cpu": tuple(stored["cpu"])})


# One column: its head, and what stands in it for (row, the row of jaxpo's or None).
Cell = Callable[[Row, Row | None], str]


def columns(table: Table) -> list[tuple[str, Cell]]:
    """Those that at least one row fills."""
    every: list[tuple[str, Cell]] = [
        (f"{table.unit}/s", lambda r, _: _spread(rate(r))),
        ("seconds", lambda r, _: _spread(Spread.of(r.wall)) if r.wall else ""),
        ("processor seconds", lambda r, _: _spread(Spread.of(r.cpu)) if r.cpu else ""),
        ("peak memory", lambda r, _: "" if r.peak_bytes is None else size(r.peak_bytes)),
        ("ceiling", lambda r, _: "" if r.ceiling is None else number(r.ceiling)),
        ("share of it", lambda r, _: "" if share(r) is None else f"{share(r):.0%}"),
        ("jaxpo is faster by", lambda r, ours: _against(r, ours, "wall")),
        ("in processor time", lambda r, ours: _against(r, ours, "cpu")),
        ("memory against jaxpo's", _memory_against),
    ]
    ours = reference(table)
    return [(head, cell) for head, cell in every if any(cell(row, ours) for row in table.rows)]


def _against(row: Row, ours: Row | None, of: str) -> str:
    return "" if ours is None or row is ours else _spread(advantage(ours, row, of=of))


def _memory_against(row: Row, ours: Row | None) -> str:
    if ours is None or row is ours or not ours.peak_bytes or row.peak_bytes is None:
        return ""
    return f"{row.peak_bytes / ours.peak_bytes:.2f}"


def markdown(table: Table) -> str:
    """One question's table; a row that was not measured says why."""
    shown, ours = columns(table), reference(table)
    lines = [["", *(head for head, _ in shown)], ["---"] * (len(shown) + 1)]
    for row in table.rows:
        cells = [cell(row, ours) for _, cell in shown]
        if row.missing:
            cells = [f"not measured: {row.missing}", *cells[1:]] if cells else [f"not measured: {row.missing}"]
        lines.append([row.name, *cells])
    return f"**{table.title}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def section(found: Entry) -> str:
    """A benchmark's part of the document."""
    result = result_of(found)
    parts = [f"## {found['key']}: {found['title']}", f"Goal: {found['goal']}", *map(markdown, result.tables)]
    if result.ceilings:
        listed = "; ".join(f"{name} {number(value)} {unit}" for name, (value, unit) in result.ceilings.items())
        parts.append(f"Measured in the same run: {listed}.")
    parts += [f"- {note}" for note in result.notes]
    parts.append(
        f"{found['threads']} threads, {repetitions(result.tables)} repetitions, {found['seconds']:.0f} s in all, "
        f"{size(found['peak_bytes'])} at most. {machine.described(found['machine'])}."
    )
    return "\n\n".join(parts)


def repetitions(tables: Sequence[Table]) -> str:
    """How many the rows have: a benchmark may take fewer than were asked for, or more."""
    counts = {len(row.wall) for table in tables for row in table.rows if row.wall} or {0}
    return str(max(counts)) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"


def write(folder: Path, found: Entry) -> None:
    """Keep one benchmark's figures, and make the document and the plot anew from all that are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{found['key']}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    entries = kept(folder)
    document = folder / README
    text = document.read_text(encoding="utf-8") if document.is_file() else f"# Measured speed\n\n{BEGIN}\n{END}\n"
    document.write_text(between(text, "\n\n".join(section(e) for e in entries)), encoding="utf-8")
    plot(entries, folder / PLOT)


def kept(folder: Path) -> list[Entry]:
    """The stored benchmarks in the order of their numbers."""
    files = sorted(folder.glob("W*.json"), key=lambda path: int(path.stem[1:]))
    return [json.loads(path.read_text(encoding="utf-8")) for path in files]


def between(text: str, tables: str) -> str:
    """The document with new tables between its marks.

    Raises:
      ValueError: no marks.
    """
    if BEGIN not in text or END not in text:
        raise ValueError(f"the document lacks the lines {BEGIN} and {END}, between which the tables go")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}"


def comparisons(entries: Sequence[Entry]) -> list[tuple[str, Spread]]:
    """`(label, how many times as fast jaxpo is)` of everything that jaxpo was compared with."""
    found = []
    for e in entries:
        for table in result_of(e).tables:
            ours = reference(table)
            for row in table.rows:
                if ours is None or row.name.startswith("jaxpo"):
                    continue
                ratio = advantage(ours, row)
                if ratio is not None:
                    found.append((f"{e['key']} {table.title}: {row.name}", ratio))
    return found


def plot(entries: Sequence[Entry], path: Path) -> None:
    """A bar per comparison on a logarithmic axis; right of 1 jaxpo is faster."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    bars = comparisons(entries)[::-1]
    if not bars:
        return
    figure, axes = pyplot.subplots(figsize=(10, 1.2 + 0.32 * len(bars)), layout="constrained")
    for y, (_, ratio) in enumerate(bars):
        colour = "#2a6f97" if ratio.median >= 1 else "#bc4b51"
        axes.barh(y, ratio.median - 1, left=1, color=colour, height=0.6)
        axes.plot((ratio.low, ratio.high), (y, y), color="black", linewidth=1)
        axes.annotate(
            f"{ratio.median:.2f}", (max(ratio.high, 1), y), xytext=(4, 0), textcoords="offset points", va="center"
        )
    axes.set_yticks(range(len(bars)), [label for label, _ in bars])
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes.margins(x=0.12)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("how many times as fast jaxpo is")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def number(value: float) -> str:
    """Three significant digits, thousands apart."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def size(count: float) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def _spread(found: Spread | None) -> str:
    return "" if found is None else f"{number(found.median)} ({number(found.low)}..{number(found.high)})"
