"""Which model a stage has: from which earlier stage it comes, and of which architecture it is. Imports no jax."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from jaxpo.config import RecipePart, Run
from jaxpo.errors import ConfigError
from jaxpo.models.family import preset

RANDOM, PREVIOUS = "random", "previous"
"""What `init_from` may say instead of a name."""


def with_models(run: Run, index: int) -> list[Any]:
    """The stages before one that leave a model, in order."""
    return [s for s in run.stages[:index] if s.LEAVES_MODEL]


def trained(run: Run) -> list[Any]:
    """The stages that train."""
    return [s for s in run.stages if s.TRAINS]


def seed_of(run: Run, stage: RecipePart) -> int:
    """The seed of what a stage draws: its own, or the run's."""
    return run.seed if stage.seed is None else stage.seed


def merged_names(run: Run, merge: Any) -> tuple[str, ...]:
    """Stages that a merge is made of, its base not among them; all trained ones when it names none."""
    named = merge.models or tuple(s.name for s in trained(run))
    return tuple(name for name in named if name != merge.base)


def declared_model(run: Run, stage: RecipePart) -> Any:
    """A stage's architecture as the configuration gives it.

    Returns:
      A configuration; the folder of `model_from`, whose shape is known once it is read; None when there is no such
      preset.
    """
    if not stage.TRAINS:
        merged = [s for s in with_models(run, run.stages.index(stage)) if s.name in merged_names(run, stage)]
        return declared_model(run, merged[0]) if merged else None
    own = getattr(stage, "model", None)
    if own is None and run.model_from is not None:
        return run.model_from
    return with_additions(resolved(run.model if own is None else own), *descent(run, stage))


def with_additions(config: Any, *stages: Any) -> Any:
    """An architecture with the parts that stages add to a model which has none of them, the first stage first."""
    for stage in stages:
        if getattr(stage, "add_users", False) and getattr(config, "user_channels", None) == 0:
            config = replace(config, user_channels=stage.images.users.width)
        adapter = getattr(stage, "add_text_adapter", None)
        if adapter is not None and getattr(config, "text_adapter", adapter) is None:
            config = replace(config, text_adapter=adapter)
    return config


def descent(run: Run, stage: Any) -> tuple[Any, ...]:
    """The stages that a stage's model has gone through, oldest first, itself the last.

    What they added it has. A stage with a `model` of its own says itself what that has.
    """
    if stage.TRAINS and stage.model is not None:
        return (stage,)
    index = next((i for i, own in enumerate(run.stages) if own.name == stage.name), 0)
    before = with_models(run, index)
    if stage.TRAINS:
        source = before[-1:] if stage.init_from == PREVIOUS else [s for s in before if s.name == stage.init_from]
    else:
        source = [s for s in before if s.name in merged_names(run, stage)][:1]
    return (*(descent(run, source[0]) if source else ()), stage)


def resolved(model: Any) -> Any:
    """A preset's configuration; None for a name that is none."""
    if not isinstance(model, str):
        return model
    try:
        return preset(model)
    except ConfigError:
        return None
