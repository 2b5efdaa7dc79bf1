"""A grid of merges, evaluated one after the other; the best one wins. What was measured is kept and not repeated."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from jaxpo.config import Search
from jaxpo.convert.hf import value_of
from jaxpo.convert.open_model import OpenModel
from jaxpo.evaluate.intervals import Measurement
from jaxpo.evaluate.selection import Yardstick, yardstick
from jaxpo.merge.grid import Candidate, candidates
from jaxpo.merge.plan import Plan, plan_models
from jaxpo.models.family import param_table
from jaxpo.models.spec import Param, map_table
from jaxpo.sharding.turns import first_process_first
from jaxpo.stages.merging.files import homes, leaf_names, merge_many_to_params
from jaxpo.stages.merging.memory import REPORT, SELECT, Memory, Row, identity, question_of_yardstick

Tree = Any


@dataclass(frozen=True)
class Task:
    """What is searched.

    Attributes:
      opened: what is merged, and the base, by name.
      models: names of what is merged, in the order of weights.
      base: name of the base, or None.
      select, report: yardsticks on different files.
      place: mesh and sharding rules for the candidates.
      parallel: candidates per pass over the leaves.
    """

    opened: Mapping[str, OpenModel]
    models: tuple[str, ...]
    base: str | None
    candidates: tuple[Candidate, ...]
    select: Yardstick
    report: Yardstick
    seed: int
    place: tuple[Any, Any]
    parallel: int = 4

    @classmethod
    def of(
        cls,
        wanted: Search,
        opened: Mapping[str, OpenModel],
        models: tuple[str, ...],
        base: str | None,
        *,
        seed: int,
        place: tuple[Any, Any],
        resolve: Callable[[Sequence[str]], Sequence[str]] = tuple,
    ) -> Task:
        """What a recipe or a command asks for.

        Args:
          resolve: names of data files -> their paths.
        """
        select, report = (
            yardstick(wanted.metrics, resolve(files), wanted.max_length, wanted.max_new_tokens)
            for files in (wanted.select, wanted.report)
        )
        tried = tuple(candidates(len(models), base is not None, wanted.methods, wanted.weights))
        return cls(opened, models, base, tried, select, report, seed, place, wanted.parallel)

    def plan(self, candidate: Candidate) -> Plan:
        """The merge that a candidate stands for; methods without a base do not see it."""
        names = leaf_names(next(iter(self.opened.values())).config)
        base = self.base if candidate.method.BASE != "none" else None
        return plan_models(names, candidate.method, self.models, candidate.weights, base, self.seed)

    def make(self, candidates: list[Candidate]) -> list[Tree]:
        """Their models, in one pass over the leaves of those that go in."""
        return merge_many_to_params([self.plan(c) for c in candidates], self.opened, *self.place)

    def load(self, name: str) -> Tree:
        """A model that goes in, read leaf by leaf."""
        model = self.opened[name]
        places = homes(model.config, *self.place)

        def load(param: Param) -> jax.Array:
            return jax.device_put(value_of(param, model.leaves), places[param.tensors[0]][1])

        return map_table(load, param_table(model.config))

    def question(self) -> dict[str, Any]:
        """What measured values depend on, besides the candidate."""
        return {
            "models": {name: identity(model.path) for name, model in self.opened.items()},
            "base": self.base,
            "order of models": list(self.models),
            "seed": self.seed,
            **question_of_yardstick(SELECT, self.select),
            **question_of_yardstick(REPORT, self.report),
        }


@dataclass(frozen=True)
class Bench:
    """Where and how candidates are measured.

    Attributes:
      evaluate: parameters and a yardstick -> measurements.
      folder: keeps what was measured; a second start goes on from there.
      check: raises when the run is to stop; called before every evaluation.
      primary: whether this process writes.
    """

    evaluate: Callable[[Tree, Yardstick], dict[str, Measurement]]
    folder: Path
    say: Callable[[str], None]
    check: Callable[[], None]
    primary: bool = True


@dataclass(frozen=True)
class Outcome:
    """What a search found.

    Attributes:
      best: the candidate with the largest score on the selection files.
      rows: everything that was measured.
    """

    best: Candidate
    rows: tuple[Row, ...]

    def on(self, files: str) -> list[Row]:
        """Rows of one set of files, the best first."""
        return sorted((r for r in self.rows if r.on == files), key=lambda r: -r.score)


def search(task: Task, bench: Bench) -> Outcome:
    """Measure the models that go in and every candidate on the selection files; then the best, the plain average and
    the inputs on the report files.

    Raises:
      RunError: the folder holds the answers to another question, which is named.
    """
    memory = first_process_first(lambda: Memory(bench.folder, task.question(), bench.primary))
    for name in task.opened:
        _measure(task, bench, memory, name, "input", (SELECT, REPORT), functools.partial(task.load, name))
    _measure_all(task, bench, memory, task.candidates, SELECT)
    best = max(task.candidates, key=lambda c: memory.rows[c.label, SELECT].score)
    _measure_all(task, bench, memory, tuple(dict.fromkeys((best, *_average(task)))), REPORT)
    labels = [*task.opened, *(c.label for c in task.candidates)]
    rows = [memory.rows[label, on] for on in (SELECT, REPORT) for label in labels if memory.knows(label, on)]
    return Outcome(best, tuple(rows))


def _measure_all(task: Task, bench: Bench, memory: Memory, candidates: tuple[Candidate, ...], on: str) -> None:
    """Make the candidates that are not known yet, some at a time, and evaluate each."""
    todo = [c for c in candidates if not memory.knows(c.label, on)]
    for some in (todo[i : i + task.parallel] for i in range(0, len(todo), task.parallel)):
        bench.check()
        trees = task.make(some)
        for candidate in some:
            _measure(task, bench, memory, candidate.label, "merge", (on,), functools.partial(trees.pop, 0))


def _measure(
    task: Task,
    bench: Bench,
    memory: Memory,
    label: str,
    kind: str,
    files: tuple[str, ...],
    load: Callable[[], Tree],
) -> None:
    """Evaluate a model on the sets of files on which that has not been done, and remember the results."""
    todo = [on for on in files if not memory.knows(label, on)]
    if not todo:
        return
    bench.check()
    model = load()
    for on in todo:
        yardstick = task.select if on == SELECT else task.report
        measured = bench.evaluate(model, yardstick)
        memory.add(Row(label, kind, on, yardstick.score(measured), measured))
        bench.say(f"{on}: {label}: {', '.join(f'{name} {found.value:.4f}' for name, found in measured.items())}")


def _average(task: Task) -> Iterator[Candidate]:
    """The plain average, where the grid has it."""
    equal = (1.0 / len(task.models),) * len(task.models)
    yield from (c for c in task.candidates if c.method.NAME == "soup" and c.weights == equal)
