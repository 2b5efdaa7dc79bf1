"""Everything that one `jaxpo eval` found: a table for the terminal, results.json and examples.jsonl. No jax."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxpo import __version__
from jaxpo.evaluate.intervals import Measurement
from jaxpo.evaluate.paired import Difference, differences
from jaxpo.evaluate.results import FORMAT, TaskResult


@dataclass(frozen=True)
class Outcome:
    """One task, on one model or on two.

    Attributes:
      theirs: of the other model; None without one.
      differences: result -> ours less theirs; empty without another model.
    """

    ours: TaskResult
    theirs: TaskResult | None
    differences: Mapping[str, Difference]

    @classmethod
    def of(cls, ours: TaskResult, theirs: TaskResult | None = None) -> Outcome:
        """The comparison of two results, or one result alone."""
        return cls(ours, theirs, {} if theirs is None else differences(ours, theirs))

    def record(self) -> dict[str, Any]:
        """For results.json."""
        found = self.ours.record()
        if self.theirs is None:
            return found
        compared = {name: x.record() for name, x in self.differences.items()}
        return {**found, "against": self.theirs.record(), "differences": compared}

    def examples(self) -> Iterator[dict[str, Any]]:
        """For examples.jsonl: one object per example."""
        for number, one in enumerate(self.ours.scored):
            row = {"task": self.ours.label, "example": number, "values": dict(one.values)}
            row |= {"weights": dict(one.weights)} if one.weights else {}
            row |= {"groups": list(one.groups)} if one.groups else {}
            row |= {"prompt": one.prompt, "answer": one.answer, "expected": one.expected}
            if self.theirs is not None:
                other = self.theirs.scored[number]
                row["against"] = {"values": dict(other.values), "answer": other.answer}
            yield row


def document(outcomes: Sequence[Outcome], model: Mapping[str, Any], against: Mapping[str, Any] | None = None) -> str:
    """results.json: what was evaluated, and task by task what was found."""
    found = {"format": FORMAT, "jaxpo": __version__, "model": dict(model)}
    found |= {} if against is None else {"against": dict(against)}
    found["tasks"] = {outcome.ours.label: outcome.record() for outcome in outcomes}
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"


def table(outcomes: Sequence[Outcome]) -> list[str]:
    """The results as lines of text: value, interval, n; with another model also its value and the difference."""
    compared = any(outcome.theirs is not None for outcome in outcomes)
    head = ["task", "result", "value", "95% interval", "n", "prompt"]
    head += ["against", "difference", "better/worse", "McNemar p"] if compared else []
    rows = [row for outcome in outcomes for row in _rows(outcome)]
    cells = [head, *([*row, *[""] * (len(head) - len(row))] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return [*lines, *(line for outcome in outcomes for line in _grids(outcome))]


def _grids(outcome: Outcome) -> Iterator[str]:
    for result, whose in ((outcome.ours, ""), (outcome.theirs, " (against)")):
        if result is not None and result.grid is not None:
            title, *lines = result.grid.lines()
            yield from ("", f"{result.label}{whose}: {title}", *lines)


def _rows(outcome: Outcome) -> Iterator[list[str]]:
    ours, theirs = outcome.ours, outcome.theirs
    others = {} if theirs is None else theirs.results
    for name, found in ours.results.items():
        row = [ours.label, name, _number(found.value), interval(found), str(found.n), ours.prompt_hash]
        if name in others:
            row.append(_number(others[name].value))
        if name in outcome.differences:
            row += difference_cells(outcome.differences[name])
        yield row


def difference_cells(found: Difference) -> list[str]:
    """`+0.0312 [+0.0100, +0.0521]`, `14/6`, `0.115`."""
    ends = "" if found.low is None or found.high is None else f" [{found.low:+.4f}, {found.high:+.4f}]"
    spread = f"{found.value:+.4f}{ends}"
    return [spread, f"{found.better}/{found.worse}", "" if found.p is None else f"{found.p:.3g}"]


def interval(found: Measurement) -> str:
    """`[0.1234, 0.5678]`, or nothing where there is none."""
    if found.low is None or found.high is None:
        return ""
    return f"[{_number(found.low)}, {_number(found.high)}]"


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.1f}"
