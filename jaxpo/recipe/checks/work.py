"""The checks of a work stage: what it reads and whose models it uses."""

from __future__ import annotations

from collections.abc import Iterator

from jaxpo.config import Run, Work
from jaxpo.errors import did_you_mean
from jaxpo.recipe.checks.files import file_problems
from jaxpo.recipe.lineage import with_models


def work_problems(run: Run, index: int, stage: Work) -> Iterator[str]:
    """Its own settings, files that will not be there, and models that no earlier stage leaves."""
    yield from (f"{stage.name}: {problem}" for problem in stage.problems())
    yield from file_problems(run, f"{stage.name}: reads", stage.inputs(), run.stages[:index])
    earlier = [s.name for s in with_models(run, index)]
    for name in stage.needed_models():
        if name not in earlier and not (name == "previous" and earlier):
            known = f"({', '.join(earlier) or 'there is none'}).{did_you_mean(name, earlier)}"
            yield f"{stage.name}: the model {name!r} is not that of an earlier stage {known}"
