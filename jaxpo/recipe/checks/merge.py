"""The checks of a merge stage: its models, its base, its method, and the files of its search."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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
    files = () if merge.search is None else search_file_problems(run, index, merge.name, merge.search)
    yield from (f"{merge.name}.{problem}" for problem in own_problems(merge, models, files))
    if (
        merge.search is None
        and merge.weights is not None
        and merge.method in (None, Soup())
        and abs(sum(merge.weights) - 1) > 1e-6
    ):
        yield f"{merge.name}.weights: {merge.weights} sum to {sum(merge.weights):g}, not 1."


def own_problems(merge: Merge, models: Sequence[str], files: Iterable[str] = ()) -> Iterator[str]:
    """What is wrong with a merge wherever its models lie, `field: sentence`: of a recipe's stage or of the command.

    Args:
      models: names of what is merged; the base is not among them.
      files: what is wrong with the files of its search, told in their place.
    """
    if merge.search is None:
        yield from method_problems(merge, models)
    else:
        yield from search_problems(merge, merge.search, models, files)


def method_problems(merge: Merge, models: Sequence[str]) -> Iterator[str]:
    """The method fits the models, and the weights fit the method."""
    method = Soup() if merge.method is None else merge.method
    if not isinstance(method, Method):
        shown = getattr(method, "__name__", repr(method))
        yield f"method: {shown} is not a method; use an instance of a dataclass of jaxpo.merge.methods."
        return
    yield from (f"{_owner(p)}{p}" for p in method.problems(len(models), merge.base is not None))
    if merge.weights is None:
        return
    if not method.WEIGHTED:
        yield f"weights: {method.NAME} does not use any; leave them out."
    elif len(merge.weights) != len(models):
        many = f"{len(merge.weights)} weights for {len(models)} models ({', '.join(models)})"
        yield f"weights: {many}; give one weight per model."


def _owner(problem: str) -> str:
    """Models and base are fields of the stage, everything else of its method."""
    return "" if problem.startswith(("models:", "base:")) else "method."


def search_problems(merge: Merge, search: Search, models: Sequence[str], files: Iterable[str]) -> Iterator[str]:
    """The grid fits the models; numbers and metrics are in range."""
    for field, given in (("method", merge.method), ("weights", merge.weights)):
        if given is not None:
            listed = f"{merge.name}.search.{field.rstrip('s')}s"
            yield f"{field}: a search chooses it; leave it out, or list it in {listed}."
    for problem in grid.problems(len(models), merge.base is not None, search.methods, search.weights):
        yield f"search.{problem}"
    yield from files
    yield from (f"search.{problem}" for problem in metric_problems(search.metrics))
    for field in ("max_length", "max_new_tokens", "parallel"):
        least = 2 if field == "max_length" else 1
        if getattr(search, field) < least:
            yield f"search.{field}: {getattr(search, field)} must be at least {least}."


def search_file_problems(run: Run, index: int, name: str, search: Search) -> Iterator[str]:
    """What selects and what is reported are different files that exist, or will."""
    for field in ("select", "report"):
        files = getattr(search, field)
        if not files:
            yield f"search.{field}: no held-out files; give {flag((name, 'search', field))} FILES."
        yield from file_problems(run, f"search.{field}", files, run.stages[:index])
    yield from (f"search.report: {p}" for p in shared_files(search.select, search.report))


def shared_files(select: tuple[str, ...], report: tuple[str, ...]) -> Iterator[str]:
    """Files that would both select and be reported."""
    for file in report:
        if file in select or (Path(file).exists() and Path(file).resolve() in [Path(s).resolve() for s in select]):
            yield f"{file} also selects; the best of many looks better there than it is. Report another file."
