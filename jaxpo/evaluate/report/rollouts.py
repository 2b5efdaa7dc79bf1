"""Sections on what a model wrote and what it was given for that: answers of some generations, and their rewards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from jaxpo.evaluate.report.page import bar, number, section, table
from jaxpo.evaluate.report.read import Record, RunData, read_lines

BINS, GROUPS, LONGEST = 10, 3, 400


def rollouts(run: RunData) -> Iterator[str]:
    """One section per stage that wrote answers: first, middle and last generation."""
    for stage in run.metrics:
        folder = run.path / "stages" / stage / "rollouts"
        found = sorted(path for path in folder.glob("*") if path.name.isdigit()) if folder.is_dir() else []
        whole = [(path, lines) for path in chosen(found) if (lines := records(path))]
        if not whole:
            continue
        names = list(reward_names(whole[-1][0]))
        cards = [card(path, lines, names) for path, lines in whole]
        yield section(f"{stage}: answers", "\n".join(cards), "Of some generations: the best and the worst answer.")


def chosen(folders: Sequence[Path]) -> list[Path]:
    """The first, the middle and the last."""
    return list(dict.fromkeys(folders[i] for i in (0, len(folders) // 2, -1))) if folders else []


def records(folder: Path) -> list[Record]:
    """The lines of a generation that is whole, without its settings."""
    for path in sorted(folder.glob("answers-*.jsonl")):
        lines = read_lines(path)
        if lines and "done" in lines[-1]:
            return lines[1:]
    return []


def reward_names(folder: Path) -> Iterator[str]:
    """Names of the rewards, in no order that matters."""
    for path in sorted(folder.glob("reward-*.jsonl")):
        yield path.stem.removeprefix("reward-").rpartition("-")[0]


def card(folder: Path, lines: Sequence[Record], names: Sequence[str]) -> str:
    """A generation: how its rewards are spread, and some of its groups."""
    last = lines[-1]
    by_position = {line["position"]: line for line in lines[:-1]}
    groups = [by_position[position] for position in last["positions"]]
    totals = [[total(values) for values in group] for group in last["rewards"]]
    rows = [row(group, own) for group, own in list(zip(groups, totals, strict=True))[:GROUPS]]
    head = ["prompt", "best answer", "worst answer", "rewards, best", "worst"]
    title = f"<h3>Generation {int(folder.name)}</h3>"
    shown = ", ".join(names)
    return (
        f'<div class="card">{title}<p class="muted">Sum of {escape(shown)}</p>{histogram(totals)}'
        f"{table(head, rows, numeric_from=3)}</div>"
    )


def total(values: Sequence[float | None]) -> float | None:
    """Sum of the rewards that say something; None where none does."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def row(group: Record, totals: Sequence[float | None]) -> list[str]:
    """One prompt with its best and worst answer."""
    known = [k for k, value in enumerate(totals) if value is not None]
    prompt = escape(shorten(str(group.get("text") or f"prompt {group['prompt']}")))
    if not known:
        return [prompt, "–", "–", "–", "–"]
    best = max(known, key=lambda k: totals[k] or 0.0)
    worst = min(known, key=lambda k: totals[k] or 0.0)
    answers = [escape(shorten(group["answers"][k]["text"])) for k in (best, worst)]
    return [prompt, *answers, *(number(float(totals[k] or 0.0)) for k in (best, worst))]


def shorten(text: str) -> str:
    """At most so many characters."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"


def histogram(totals: Sequence[Sequence[Any]]) -> str:
    """Bars: the share of answers by reward."""
    values = [value for group in totals for value in group if value is not None]
    if not values:
        return ""
    low, high = min(values), max(values)
    width = (high - low) / BINS or 1.0
    counts = [0] * (BINS if high > low else 1)
    for value in values:
        counts[min(int((value - low) / width), len(counts) - 1)] += 1
    return "".join(
        bar(number(low + i * width), [("step", "answers", count / len(values))], f"{count}")
        for i, count in enumerate(counts)
    )
