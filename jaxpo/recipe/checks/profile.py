"""Steps that a profile asks for and a run does not have. Imports no jax."""

from __future__ import annotations

from collections.abc import Iterator

from jaxpo.config import Run
from jaxpo.errors import ConfigError, did_you_mean
from jaxpo.recipe.lineage import trained
from jaxpo.train.profile_range import ProfileRange


def check_profile(run: Run, wanted: ProfileRange) -> None:
    """ConfigError for every stage that has not these steps, as far as its length is known before its data."""
    problems = list(profile_problems(run, wanted))
    if problems:
        raise ConfigError(problems)


def profile_problems(run: Run, wanted: ProfileRange) -> Iterator[str]:
    stages = {stage.name: stage for stage in trained(run)}
    if wanted.stage is not None and wanted.stage not in stages:
        known = ", ".join(stages)
        yield f"--profile: no stage {wanted.stage!r} trains; there are {known}.{did_you_mean(wanted.stage, stages)}"
    for name, stage in stages.items():
        if wanted.of(name) is not None and stage.max_steps is not None and wanted.last > stage.max_steps:
            yield (
                f"--profile: stage {name} has {stage.max_steps} steps, so none with the number {wanted.last}; "
                f"name another range, or another stage as in STAGE:{wanted.first}:{wanted.last}."
            )
