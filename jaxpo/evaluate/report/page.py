"""The page around a report's sections: style, and the few HTML pieces that all sections share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

CSS = """
:root { color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --text: #1b1f27; --muted: #667085; --grid: #e6e8ec; --line: #dfe3e8;
  --accent: #2563c9; --good: #1a7f4b; --warn: #a15c00; --warn-back: #fdf3e1; --good-back: #e5f5ec;
  --series-0: #2563c9; --series-1: #d0680c; --series-2: #1a8f5a; --series-3: #8a4fd0; --series-4: #c93a4b;
  --series-5: #0f8a9d; }
@media (prefers-color-scheme: dark) { :root {
  --page: #14161a; --card: #1c1f25; --text: #e7e9ee; --muted: #98a1b0; --grid: #2c313a; --line: #2f343d;
  --accent: #7aa8ff; --good: #5fcf95; --warn: #f0b45a; --warn-back: #38290f; --good-back: #12301f;
  --series-0: #7aa8ff; --series-1: #f2a154; --series-2: #5fcf95; --series-3: #bd94f5; --series-4: #f2808d;
  --series-5: #5cc8d8; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 40px 0 12px; }
h3 { font-size: 14px; margin: 0 0 4px; font-weight: 600; }
p { margin: 6px 0; } .muted, .note { color: var(--muted); } .note { font-size: 13px; }
.title { display: flex; gap: 12px; align-items: center; flex-wrap: wrap; }
.badge { font-size: 13px; font-weight: 600; padding: 2px 10px; border-radius: 99px; white-space: nowrap; }
.badge.done { color: var(--good); background: var(--good-back); }
.badge.open { color: var(--warn); background: var(--warn-back); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 12px; margin-top: 20px; }
.tile, .card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px; }
.tile b { display: block; font-size: 21px; font-weight: 600; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tile span { font-size: 13px; color: var(--muted); display: block; }
.charts { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 14px; }
.charts .wide { grid-column: span 2; }
figure { margin: 0; } figure svg { display: block; width: 100%; height: auto; }
svg text { font-family: inherit; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--muted); font-size: 13px; }
th, td { padding: 7px 14px 7px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child > td { border-bottom: 0; } th:last-child, td:last-child { padding-right: 0; }
td.n, th.n { text-align: right; white-space: nowrap; } td small { color: var(--muted); display: block; }
td.name { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; font-size: 13px; overflow-wrap: anywhere; }
div.card + div.card { margin-top: 12px; }
.prompt { font-weight: 600; white-space: pre-wrap; overflow-wrap: anywhere; }
.answer { display: grid; grid-template-columns: 110px 1fr; gap: 4px 14px; margin: 8px 0 0; }
.answer dt { color: var(--muted); font-size: 13px; overflow-wrap: anywhere; }
.answer dd { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
details { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 10px 16px; }
summary { cursor: pointer; font-weight: 600; } details > .scroll { margin-top: 8px; }
details td { padding-top: 3px; padding-bottom: 3px; }
.bar { display: grid; grid-template-columns: 120px 1fr 56px; gap: 12px; align-items: center; margin: 5px 0; }
.bar span { font-size: 13px; overflow-wrap: anywhere; } .bar b { text-align: right; font-size: 14px; }
.bar div { display: flex; height: 24px; border-radius: 5px; overflow: hidden; background: var(--grid); }
.legend span { font-size: 13px; color: var(--muted); margin-right: 16px; white-space: nowrap; }
.legend i { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 6px; }
.bar i, .legend i { background: var(--muted); } i.startup { opacity: 0.75; } i.work { opacity: 0.55; }
i.other { opacity: 0.35; } i.down { opacity: 1; }
.bar i.step, .legend i.step { background: var(--series-2); }
.bar i.again, .legend i.again { background: var(--series-4); }
.bar i.compile, .legend i.compile { background: var(--series-3); }
.bar i.data, .legend i.data { background: var(--series-1); }
.bar i.eval, .legend i.eval { background: var(--series-0); }
.bar i.save, .legend i.save { background: var(--series-5); }
.shown { display: grid; grid-template-columns: repeat(auto-fill, minmax(130px, 1fr)); gap: 12px; }
.shown div.card + div.card { margin: 0; } .shown img { width: 96px; image-rendering: pixelated; }
.drawn img { max-width: 100%; image-rendering: pixelated; display: block; }
.shown .right { color: var(--good); } .shown .wrong { color: var(--warn); }
@media print { body { background: none; } figure, .card, .tile { break-inside: avoid; } }
@media (max-width: 900px) { .charts { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
@media (max-width: 520px) { .charts { grid-template-columns: 1fr; } .charts .wide { grid-column: auto; } }
@media (max-width: 560px) { .answer { grid-template-columns: 1fr; } main { padding: 20px 14px 40px; } }
"""


def page(title: str, body: str) -> str:
    """A complete HTML document; nothing in it refers to another file."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def tile(label: str, value: str, note: str = "") -> str:
    """One figure of the header."""
    small = f"<span>{escape(note)}</span>" if note else ""
    return f'<div class="tile"><span>{escape(label)}</span><b>{escape(value)}</b>{small}</div>'


def section(title: str, body: str, note: str = "") -> str:
    """A titled section; empty when it has no body."""
    small = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<section>\n<h2>{escape(title)}</h2>\n{small}{body}\n</section>\n" if body else ""


def figure(title: str, svg: str, *, wide: bool = False) -> str:
    """A titled chart; a wide one takes two columns."""
    return f'<figure class="card{" wide" if wide else ""}"><h3>{escape(title)}</h3>\n{svg}</figure>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, numeric_from: int = 1) -> str:
    """A table of already escaped cells; the first columns are names, the others right-aligned."""

    def kind(i: int) -> str:
        return ' class="n"' if i >= numeric_from else ' class="name"'

    top = "".join(f"<th{kind(i) if i >= numeric_from else ''}>{escape(h)}</th>" for i, h in enumerate(head))
    body = "\n".join(f"<tr>{''.join(f'<td{kind(i)}>{c}</td>' for i, c in enumerate(row))}</tr>" for row in rows)
    thead = f"<thead><tr>{top}</tr></thead>" if any(head) else ""
    return f'<div class="scroll"><table>{thead}\n<tbody>\n{body}\n</tbody></table></div>'


def number(value: float) -> str:
    """Four significant digits, thousands separated."""
    if value != value:
        return "n/a"
    if isinstance(value, int) or value == 0 or 1e3 <= abs(value) < math.inf:
        return f"{value:,.0f}"
    return f"{value:#.4g}" if 1e-3 <= abs(value) < math.inf else f"{value:.3g}"


def measured(probe: Any) -> str:
    """A table cell: value, and below it interval and n."""
    if probe is None:
        return '<span class="muted">–</span>'
    value, *small = map(escape, measured_lines(probe))
    return value + "".join(f"<small>{line}</small>" for line in small)


def measured_lines(probe: Any) -> list[str]:
    """A probe's value, and a line of interval and n where they are known."""
    if probe is None:
        return ["–"]
    if not isinstance(probe, dict):
        return [number(probe) if isinstance(probe, (int, float)) else str(probe)]
    value = probe.get("value")
    shown = number(value) if isinstance(value, (int, float)) else "n/a"
    small = []
    if isinstance(probe.get("low"), (int, float)) and isinstance(probe.get("high"), (int, float)):
        small.append(f"{number(probe['low'])} … {number(probe['high'])}")
    if isinstance(probe.get("n"), (int, float)):
        small.append(f"n = {number(probe['n'])}")
    return [shown, " · ".join(small)] if small else [shown]


def bar(name: str, shares: Sequence[tuple[str, str, float]], value: str) -> str:
    """A line of coloured shares of 1, with its name before and a value behind.

    Args:
      shares: kind, which has a colour in the style; label, which shows on pointing at it; share.
    """
    pieces = "".join(
        f'<i class="{kind}" style="width:{share:.3%}" title="{escape(label)} {share:.1%}"></i>'
        for kind, label, share in shares
        if share > 0
    )
    return f'<div class="bar"><span>{escape(name)}</span><div>{pieces}</div><b>{escape(value)}</b></div>'


def legend(entries: Iterable[tuple[str, str]]) -> str:
    """The colours of bars: kind and label of each."""
    pieces = "".join(f'<span><i class="{kind}"></i>{escape(label)}</span>' for kind, label in entries)
    return f'<p class="legend">{pieces}</p>'


def duration(total: float) -> str:
    """91 -> '1 min 31 s'."""
    if total < 10:
        return f"{total:.1f} s"
    minutes, rest = divmod(round(total), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
