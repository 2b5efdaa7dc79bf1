"""Heads whose parts have names, users or aspects: a stage takes them over from another model by name, not by shape."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxpo.config import Run
from jaxpo.convert.model_io import read_reader
from jaxpo.convert.reader import Reader
from jaxpo.errors import ConfigError
from jaxpo.recipe import lineage
from jaxpo.recipe.kinds import method_of
from jaxpo.stages.setting import reader_of_stage

SHOWN = 5


def check_parts(run: Run) -> None:
    """Every stage that starts from named parts has all of their names, in their order, or none of them.

    The parts of `pal` are its users by their places: among as many others each would have a stranger's taste. Reads no
    weights.

    Raises:
      ConfigError: some names are the same and others are not, or they are in another order; all stages together.
    """
    problems = []
    for stage in lineage.trained(run):
        for head, (theirs, own) in parts_of(run, stage).items():
            shared = [name for name in own if name in theirs]
            if shared and theirs != own:
                where = f"{stage.name}.loss.{method_of(stage).PARTS_OF[head]}"
                problems.append(
                    f"{where}: {_some(own)}, but the head {head!r} of the model that the stage starts from is of "
                    f"{_some(theirs)}; name the same, in the same order, to go on with them, or leave out "
                    f"{_some(shared)} to learn the others anew."
                )
    if problems:
        raise ConfigError(problems)


def heads_of_others(run: Run, stage: Any) -> set[str]:
    """Heads of the model that a stage starts from whose parts have other names: they are learnt anew."""
    return {head for head, (theirs, own) in parts_of(run, stage).items() if theirs != own}


def parts_of(run: Run, stage: Any) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Head -> names of its parts in the model that a stage starts from, if that is of its method, and in the stage."""
    method = method_of(stage)
    before = _reader_before(run, stage) if method.PARTS_OF else None
    if before is None or type(before.method) is not type(method):
        return {}
    return {head: (getattr(before.method, field), getattr(method, field)) for head, field in method.PARTS_OF.items()}


def _reader_before(run: Run, stage: Any) -> Reader | None:
    """How the rewards of the model are read that a stage starts from; None where it is no reward model."""
    before = {s.name: s for s in lineage.with_models(run, run.stages.index(stage))}
    name = list(before)[-1] if stage.init_from == lineage.PREVIOUS and before else stage.init_from
    if name in before:
        return reader_of_stage(before[name])
    folder = run.model_from if name == lineage.PREVIOUS else name
    # One that is gone is named where it is opened, unless its stage has finished before.
    return read_reader(folder) if folder is not None and Path(folder).is_dir() else None


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
