"""`jaxpo merge --search`: the grid, the choice, and what is left behind."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxpo.cli.merge_result import base_name, check, finish, merge_of, merged_names
from jaxpo.config import Search
from jaxpo.errors import ConfigError
from jaxpo.merge.methods import resolve

ROWS, ROW_LENGTH = 16, 256


def run_search(args: Any, paths: dict[str, Path]) -> int:
    """Search, export the best, and leave table and plot in `OUT.search`, where a second start goes on."""
    from jaxpo.sharding import make_mesh, use_mesh
    from jaxpo.stages.merging.files import open_models
    from jaxpo.stages.merging.search import Bench, Task, search
    from jaxpo.stages.merging.stage import describe, verdict

    names = tuple(merged_names(paths, args))
    wanted = Search(
        select=strings(args.select),
        report=strings(args.report),
        metrics=tuple(parse_metric(text) for text in args.metric or ()),
        methods=tuple(resolve(name)() for name in args.methods or ()),
        max_length=args.max_length,
        max_new_tokens=args.max_new_tokens,
        parallel=args.parallel,
    )
    check(merge_of(args, names, method=args.method, search=wanted), names, file_problems(args))
    mesh = make_mesh({"fsdp": -1})
    folder = args.out.parent / f"{args.out.name}.search"
    with open_models(paths) as opened:
        task = Task.of(wanted, opened, names, base_name(args), seed=args.seed, place=(mesh, None))
        bench = Bench(functools.partial(evaluate, opened), folder, say=print, check=lambda: None)
        with use_mesh(mesh):
            outcome = search(task, bench)
        for line in verdict(describe(outcome, task.select, folder)):
            print(line)
        finish(task.plan(outcome.best), opened, args)
    print(f"{folder}: search.md, search.json, search.png")
    return 0


def file_problems(args: Any) -> Iterator[str]:
    """Files that are missing, and those that would both choose and be reported."""
    from jaxpo.recipe.checks.merge import shared_files

    for name in ("select", "report"):
        if not getattr(args, name):
            yield f"search.{name}: give held-out files."
        yield from (f"search.{name}: there is no file {f}." for f in getattr(args, name) or () if not f.exists())
    yield from (f"search.report: {p}" for p in shared_files(strings(args.select), strings(args.report)))
    if len(args.models) + (args.base is not None) < 2:
        yield "models: give two models or more."


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
