"""Sections on what a model wrote and what it was given for that: answers of some generations, and their rewards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from jaxpo.evaluate.report.page import bar, number, section, table
from jaxpo.evaluate.report.read import Record, RunData, read_lines

BINS, GROUPS, LONGEST, BYTES = 10, 3, 400, 4
PARTS = {
    "writing": ("data", "writing"),
    "rewards": ("eval", "rewards"),
    "reading": ("save", "the trainer's networks"),
    "training": ("step", "training"),
}
"""Part of a step's time -> its colour and its name."""


def rollouts(run: RunData) -> Iterator[str]:
    """One section per stage that wrote answers: first, middle and last generation."""
    for stage in run.metrics:
        folder = run.path / "stages" / stage / "rollouts"
        found = sorted(path for path in folder.glob("*") if path.name.isdigit()) if folder.is_dir() else []
        whole = [(path, lines) for path in chosen(found) if (lines := records(path))]
        if not whole:
            continue
        names = reward_names(run.metrics[stage])
        cards = [card(path, lines, names) for path, lines in whole]
        split = time_split(run.metrics[stage])
        yield section(
            f"{stage}: answers", "\n".join([split, *cards]), "Of some generations: the best and the worst answer."
        )


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


def reward_names(metrics: Sequence[Record]) -> list[str]:
    """Names of the rewards, in the order of the stage."""
    said = dict.fromkeys(name for record in metrics for name in record if name.startswith("rewards/"))
    return [name.split("/")[1] for name in said if name.endswith("/mean")]


def time_split(metrics: Sequence[Record]) -> str:
    """One bar: what the logged steps spent on training, and on each part of what was waited for before it."""
    spent = dict.fromkeys(PARTS, 0.0)
    for record in metrics:
        parts = {part: record.get(f"rollouts/{part}_seconds", 0.0) for part in PARTS}
        whole = sum(parts.values())
        if "step_time" not in record or not whole:
            continue
        spent["training"] += record["step_time"] - record["data_time"]
        for part, seconds in parts.items():
            spent[part] += record["data_time"] * seconds / whole
    total = sum(spent.values())
    if not total:
        return ""
    shares = [(PARTS[part][0], PARTS[part][1], seconds / total) for part, seconds in spent.items()]
    told = ", ".join(f"{name} {share:.0%}" for _, name, share in shares)
    return f'<div class="card"><h3>Where the time of a step goes</h3>{bar("", shares, "")}<p>{told}</p></div>'


def card(folder: Path, lines: Sequence[Record], names: Sequence[str]) -> str:
    """A generation: how its rewards are spread, and some of its groups."""
    last = lines[-1]
    by_position = {line["position"]: line for line in lines[:-1]}
    groups = [by_position[position] for position in last["positions"]]
    totals = [[summed(values) for values in group] for group in last["rewards"]]
    several = len(names) > 1
    shown = list(zip(groups, totals, last["rewards"], strict=True))[:GROUPS]
    rows = [row(group, own, parts if several else None) for group, own, parts in shown]
    head = ["prompt", "best answer", "worst answer", "reward of the best", "of the worst"]
    title = f"<h3>Generation {int(folder.name)}</h3>"
    what = f"Sum of {', '.join(names)}" if several else ", ".join(names)
    return (
        f'<div class="card">{title}<p class="muted">{escape(what)}; {lengths(groups)}</p>{histogram(totals)}'
        f"{table(head, rows, numeric_from=3)}</div>"
    )


def lengths(groups: Sequence[Record]) -> str:
    """How long the answers are, and how many were cut off."""
    answers = [answer for group in groups for answer in group["answers"]]
    tokens = [len(answer["tokens"]) * 3 // 4 // BYTES for answer in answers]  # base64 of int32
    cut = sum(not answer["finished"] for answer in answers)
    return (
        f"{len(answers)} answers to {len(groups)} prompts, {number(sum(tokens) / len(tokens))} tokens on average, "
        f"{cut / len(answers):.0%} cut off"
    )


def summed(values: Sequence[float | None]) -> float | None:
    """Sum of the rewards that say something; None where none does."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def row(group: Record, totals: Sequence[float | None], parts: Sequence[Any] | None) -> list[str]:
    """One prompt with its best and worst answer; with the parts of their rewards where there are several."""
    known = [k for k, value in enumerate(totals) if value is not None]
    prompt = escape(shorten(str(group.get("text") or f"prompt {group['prompt']}")))
    if not known:
        return [prompt, "–", "–", "–", "–"]
    ends = [choose(known, key=lambda k: totals[k] or 0.0) for choose in (max, min)]
    answers = [escape(shorten(group["answers"][k]["text"])) for k in ends]
    return [prompt, *answers, *(worth(totals[k], None if parts is None else parts[k]) for k in ends)]


def worth(value: float | None, parts: Sequence[float | None] | None) -> str:
    """A reward, and below it what each function gave."""
    small = "" if parts is None else ", ".join("–" if part is None else number(float(part)) for part in parts)
    return number(float(value or 0.0)) + (f"<small>{small}</small>" if small else "")


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
