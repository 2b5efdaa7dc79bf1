"""`jaxpo merge --search`: the grid, the choice, and what is left behind."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from jaxpo.cli.merge_result import base_name, finish, merged_names
from jaxpo.errors import ConfigError
from jaxpo.merge import grid
from jaxpo.merge.methods import resolve

ROWS, ROW_LENGTH = 16, 256


def run_search(args: Any, paths: dict[str, Path]) -> int:
    """Search, export the best, and leave table and plot in `OUT.search`, where a second start goes on."""
    from jaxpo.evaluate.selection import yardstick
    from jaxpo.sharding import make_mesh, use_mesh
    from jaxpo.stages.merging.files import open_models
    from jaxpo.stages.merging.search import Bench, Task, search
    from jaxpo.stages.merging.stage import describe, verdict

    base = base_name(args)
    names = tuple(merged_names(paths, args))
    methods = tuple(resolve(name)() for name in args.methods or ())
    metrics = tuple(parse_metric(text) for text in args.metric or ())
    check_request(args, len(names), base is not None, methods)
    mesh = make_mesh({"fsdp": -1})
    folder = args.out.parent / f"{args.out.name}.search"
    with open_models(paths) as opened:
        select, report = (
            yardstick(metrics, files, args.max_length, args.max_new_tokens) for files in (args.select, args.report)
        )
        task = Task(
            opened=opened,
            models=names,
            base=base,
            candidates=tuple(grid.candidates(len(names), base is not None, methods)),
            select=select,
            report=report,
            seed=args.seed,
            place=(mesh, None),
            parallel=args.parallel,
        )
        bench = Bench(functools.partial(evaluate, opened), folder, say=print, check=lambda: None)
        with use_mesh(mesh):
            outcome = search(task, bench)
        for line in verdict(describe(outcome, select, folder)):
            print(line)
        finish(task.plan(outcome.best), opened, args)
    print(f"{folder}: search.md, search.json, search.png")
    return 0


def check_request(args: Any, count: int, base: bool, methods: tuple[Any, ...]) -> None:
    """Everything wrong with a search, before any model is opened."""
    from jaxpo.evaluate.selection import metric_problems
    from jaxpo.recipe.checks.merge import shared_files

    problems = [f"--{name}: a search chooses it." for name in ("weights", "method") if getattr(args, name) is not None]
    for name in ("select", "report"):
        if not getattr(args, name):
            problems.append(f"--{name}: give held-out files.")
    problems += [f"--{name}: there is no file {f}." for name in ("select", "report") for f in missing(args, name)]
    problems += [f"--report: {p}" for p in shared_files(strings(args.select), strings(args.report))]
    problems += list(metric_problems([parse_metric(text) for text in args.metric or ()]))
    problems += list(grid.problems(count, base, methods, ()))
    if count + base < 2:
        problems.append("give two models or more.")
    if args.parallel < 1:
        problems.append(f"--parallel: {args.parallel} must be at least 1.")
    if problems:
        raise ConfigError([f"merge: {p}" for p in problems])


def missing(args: Any, name: str) -> list[Path]:
    return [file for file in getattr(args, name) or () if not file.exists()]


def strings(files: list[Path] | None) -> tuple[str, ...]:
    return tuple(map(str, files or ()))


def parse_metric(text: str) -> tuple[str, float]:
    """`bits_per_byte=1` -> ("bits_per_byte", 1.0)."""
    name, _, weight = text.partition("=")
    try:
        return name, float(weight) if weight else 1.0
    except ValueError:
        raise ConfigError(f"--metric: expected NAME=WEIGHT, got {text!r}.") from None


def evaluate(opened: Any, params: Any, by: Any) -> dict[str, Any]:
    """Measure a candidate."""
    from jaxpo.evaluate.context import ProbeContext
    from jaxpo.objectives.encode import Scorer

    first = next(iter(opened.values()))
    if first.tokenizer is None:
        raise ConfigError(f"merge: {first.path} has no tokenizer, so nothing can be measured.")
    context = ProbeContext(
        params=params,
        scorer=Scorer(first.config),
        tokenizer=first.tokenizer,
        stage="merge",
        run_dir=first.path,
        rows=ROWS,
        row_length=ROW_LENGTH,
    )
    return by.measure(context)
