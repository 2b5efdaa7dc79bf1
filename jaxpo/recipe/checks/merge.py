"""The checks of a merge stage: its models, its base, its method, and the files of its search."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jaxpo.config import Merge, Run, Search
from jaxpo.config.fields import flag
from jaxpo.errors import did_you_mean
from jaxpo.evaluate.selection import metric_problems
from jaxpo.merge import grid
from jaxpo.merge.base import Method
from jaxpo.merge.methods import Soup
from jaxpo.recipe.checks.files import file_problems
from jaxpo.recipe.checks.model import merged_model_problems
from jaxpo.recipe.lineage import merged_names, with_models


def merge_problems(run: Run, index: int, merge: Merge) -> Iterator[str]:
    """Everything wrong with one merge stage."""
    earlier = [s.name for s in with_models(run, index)]
    if not earlier:
        yield f"{merge.name}: a merge needs stages before it."
        return
    models = merged_names(run, merge)
    for model in models:
        if model not in earlier:
            known = f"({', '.join(earlier)}).{did_you_mean(model, earlier)}"
            yield f"{merge.name}.models: {model!r} is not an earlier stage {known}"
    yield from merged_model_problems(run, merge, (*models, *([merge.base] if merge.base is not None else [])))
    if merge.base is not None and merge.base not in earlier and not Path(merge.base).is_dir():
        known = f"({', '.join(earlier)}), nor a folder.{did_you_mean(merge.base, earlier)}"
        yield f"{merge.name}.base: {merge.base!r} is neither an earlier stage {known}"
    if merge.search is not None:
        yield from search_problems(run, index, merge, merge.search)
    else:
        yield from method_problems(merge, models)


def method_problems(merge: Merge, models: tuple[str, ...]) -> Iterator[str]:
    """The method fits the models, and the weights fit the method."""
    method = Soup() if merge.method is None else merge.method
    if not isinstance(method, Method):
        shown = getattr(method, "__name__", repr(method))
        yield f"{merge.name}.method: {shown} is not a method; use an instance of a dataclass of jaxpo.merge.methods."
        return
    yield from (f"{merge.name}.{_owner(p)}{p}" for p in method.problems(len(models), merge.base is not None))
    if merge.weights is None:
        return
    if not method.WEIGHTED:
        yield f"{merge.name}.weights: {method.NAME} does not use any; leave them out."
    elif len(merge.weights) != len(models):
        yield f"{merge.name}.weights: {len(merge.weights)} weights for {len(models)} models ({', '.join(models)})."
    elif method == Soup() and abs(sum(merge.weights) - 1) > 1e-6:
        yield f"{merge.name}.weights: {merge.weights} sum to {sum(merge.weights):g}, not 1."


def _owner(problem: str) -> str:
    """Models and base are fields of the stage, everything else of its method."""
    return "" if problem.startswith(("models:", "base:")) else "method."


def search_problems(run: Run, index: int, merge: Merge, search: Search) -> Iterator[str]:
    """The grid fits the models; what selects and what is reported are different files that exist."""
    name = f"{merge.name}.search"
    for field, given in (("method", merge.method), ("weights", merge.weights)):
        if given is not None:
            yield f"{merge.name}.{field}: a search chooses it; leave it out, or list it in {name}.{field.rstrip('s')}s."
    models = merged_names(run, merge)
    for problem in grid.problems(len(models), merge.base is not None, search.methods, search.weights):
        yield f"{name}.{problem}"
    for field in ("select", "report"):
        files = getattr(search, field)
        if not files:
            yield f"{name}.{field}: no held-out files; give {flag((merge.name, 'search', field))} FILES."
        yield from file_problems(run, f"{name}.{field}", files, run.stages[:index])
    yield from (f"{name}.report: {p}" for p in shared_files(search.select, search.report))
    yield from (f"{name}.{problem}" for problem in metric_problems(search.metrics))
    for field in ("max_length", "max_new_tokens", "parallel"):
        least = 2 if field == "max_length" else 1
        if getattr(search, field) < least:
            yield f"{name}.{field}: {getattr(search, field)} must be at least {least}."


def shared_files(select: tuple[str, ...], report: tuple[str, ...]) -> Iterator[str]:
    """Files that would both select and be reported."""
    for file in report:
        if file in select or (Path(file).exists() and Path(file).resolve() in [Path(s).resolve() for s in select]):
            yield f"{file} also selects; the best of many looks better there than it is. Report another file."
