"""The checks of an online stage that depend on its method: a critic, and a KL in the rewards. Imports no jax."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxpo.config import Online, Run
from jaxpo.errors import did_you_mean
from jaxpo.recipe.checks.model import difference
from jaxpo.recipe.lineage import declared_model, with_models

CRITIC, VALUE = "critic", "value"


def rollout_problems(run: Run, index: int, stage: Online) -> Iterator[str]:
    """A critic that cannot start, and rewards that a method cannot make of the generation's."""
    method, name = stage.loss, stage.name
    yield from _critic_problems(run, index, stage)
    if stage.dynamic_sampling and stage.num_generations < 2:
        yield (
            f"{name}.dynamic_sampling: the one answer of a group is always alike, so that every prompt would be "
            "replaced; leave it out, or give num_generations at least 2."
        )
    if stage.multi_objective_aggregation == "sum_then_normalize" or method is None:
        return
    if getattr(method, "penalty", None) is not None or getattr(method, "BY_TOKEN", False):
        yield (
            f"{name}.multi_objective_aggregation: {method.INFO.name} takes the sum of the rewards as it is "
            'and makes advantages of it itself; leave it out ("sum_then_normalize"), or the KL out of the rewards.'
        )


def _critic_problems(run: Run, index: int, stage: Online) -> Iterator[str]:
    """`critic_from` is a reward model of the policy's shape, and there is somebody to start from it."""
    source, where = stage.critic_from, f"{stage.name}.critic_from"
    if source is None:
        return
    needs = getattr(stage.loss, "NEEDS", None)
    if needs is None or CRITIC not in needs.extra:
        yield f"{where}: {source!r}, but the loss has no critic; leave it out, or take the loss ppo."
        return
    earlier = {s.name: s for s in with_models(run, index)}
    if source not in earlier:
        if not Path(source).is_dir():
            known = ", ".join(earlier) or "there is none"
            yield (
                f"{where}: {source!r} is neither an earlier stage ({known}) nor a folder."
                f"{did_you_mean(source, list(earlier))}"
            )
        return
    if VALUE not in _heads_of(earlier[source]):
        yield f"{where}: stage {source!r} leaves no value head; name a reward stage."
    mine, theirs = declared_model(run, stage), declared_model(run, earlier[source])
    if mine is not None and theirs is not None and not isinstance(theirs, str) and mine != theirs:
        yield (
            f"{where}: the model of stage {source!r} has another architecture ({difference(theirs, mine)}) than the "
            "policy; name a reward model of its shape."
        )


def _heads_of(stage: Any) -> tuple[str, ...]:
    """What a stage trains beside its model."""
    from jaxpo.recipe.kinds import method_of  # the table of kinds names these checks

    return tuple(method_of(stage).NEEDS.extra) if stage.TRAINS else ()
