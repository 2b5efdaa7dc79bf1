"""The page of `jaxpo eval`, results of every task and the examples that went worst; and its part of a run's page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from jaxpo.evaluate.outcome import Outcome, difference_cells
from jaxpo.evaluate.report.heat_map import heat_map
from jaxpo.evaluate.report.page import figure, measured, page, section, table, tile
from jaxpo.evaluate.report.pictures import picture_svg
from jaxpo.evaluate.report.read import RunData
from jaxpo.evaluate.results import worst

WORST = 8
PAGE = "report.html"
LONGEST = 2000
"""Characters of a text that are shown."""


def evaluation_page(outcomes: Sequence[Outcome], model: str, against: str | None, *, count: int = WORST) -> str:
    """A complete HTML document; nothing in it refers to another file.

    Args:
      model, against: how the models are called.
      count: examples shown per task.
    """
    title = f"{model} vs {against}: evaluation" if against else f"{model}: evaluation"
    examples = sum(len(outcome.ours.scored) for outcome in outcomes)
    seconds = sum(outcome.ours.seconds for outcome in outcomes)
    tiles = [tile("tasks", str(len(outcomes))), tile("examples", f"{examples:,}"), tile("time", f"{seconds:.0f} s")]
    head = f'<h1>{escape(title)}</h1>\n<div class="tiles">{"".join(tiles)}</div>\n'
    body = "".join(_task(outcome, model, against, count) for outcome in outcomes)
    return page(title, head + body)


def evaluations(run: RunData) -> Iterator[str]:
    """What `jaxpo eval` found of a run's model: one section per folder beside it."""
    for folder, found in run.evaluations.items():
        rows = [
            [escape(f"{label}: {name}"), measured(result), escape(str(task.get("prompt_hash", "")))]
            for label, task in (found.get("tasks") or {}).items()
            for name, result in (task.get("results") or {}).items()
        ]
        body = f'<div class="card">{table(["", "value", "prompts"], rows)}</div>' if rows else ""
        yield section(f"Evaluation {folder}", body, f"{folder}/{PAGE} shows the examples that went worst.")


def _task(outcome: Outcome, model: str, against: str | None, count: int) -> str:
    ours = outcome.ours
    about = {name: how.about for name, how in ours.scores.items()}
    note = f"{len(ours.scored)} examples; prompts {ours.prompt_hash}; settings {_settings(ours.settings)}"
    told = "".join(f"<p class=note><b>{escape(n)}</b>: {escape(text)}</p>" for n, text in about.items())
    told += "".join(f"<p class=note>{escape(note)}</p>" for note in ours.notes)
    shown = "".join(_example(outcome, i, model, against) for i in worst(ours.scored, ours.scores, count))
    drawn = _heat_maps(outcome, model, against) + _pictures(outcome, model, against)
    return section(ours.label, drawn + _results(outcome, against) + told, note) + section(
        f"{ours.label}: worst examples", shown
    )


def _heat_maps(outcome: Outcome, model: str, against: str | None) -> str:
    """The task's grids, one per model."""
    drawn = []
    for result, whose in ((outcome.ours, model), (outcome.theirs, against)):
        if result is not None and result.grid is not None:
            name = re.sub(r"\W+", "-", f"grid-{result.label}-{whose}")
            caption = f"<p class=note>{escape(str(whose))}: {escape(result.grid.title)}</p>"
            drawn.append(f'<div class="card">{caption}{heat_map(result.grid, name)}</div>')
    return "".join(drawn)


def _pictures(outcome: Outcome, model: str, against: str | None) -> str:
    """The task's charts, one set per model."""
    drawn = []
    for result, whose in ((outcome.ours, model), (outcome.theirs, against)):
        for i, picture in enumerate(() if result is None else result.pictures):
            name = re.sub(r"\W+", "-", f"picture-{i}-{outcome.ours.label}-{whose}")
            drawn.append(figure(f"{picture.title}: {whose}" if against else picture.title, picture_svg(picture, name)))
    return f'<div class="charts">\n{"".join(drawn)}\n</div>' if drawn else ""


def _results(outcome: Outcome, against: str | None) -> str:
    others = {} if outcome.theirs is None else outcome.theirs.results
    head = ["", "value"] + (["against", "difference", "better/worse", "McNemar p"] if against else [])
    rows = []
    for name, found in outcome.ours.results.items():
        row = [escape(name), measured(found.record())]
        if against:
            row.append(measured(others[name].record() if name in others else None))
            difference = outcome.differences.get(name)
            row += ["", "", ""] if difference is None else map(escape, difference_cells(difference))
        rows.append(row)
    return f'<div class="card">{table(head, rows)}</div>'


def _example(outcome: Outcome, i: int, model: str, against: str | None) -> str:
    one = outcome.ours.scored[i]
    parts = [(model, one.answer), ("expected", one.expected), ("scores", _values(one.values))]
    if against and outcome.theirs is not None:
        other = outcome.theirs.scored[i]
        parts += [(against, other.answer), (f"scores of {against}", _values(other.values))]
    told = "".join(f"<dt>{escape(name)}</dt><dd>{escape(_cut(text))}</dd>" for name, text in parts if text)
    return f'<div class="card"><div class="prompt">{escape(_cut(one.prompt))}</div><dl class="answer">{told}</dl></div>'


def _values(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in settings.items() if value is not None)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} … ({len(text):,} characters)"
