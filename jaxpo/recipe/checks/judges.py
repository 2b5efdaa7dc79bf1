"""The check of the models that a stage's judges read: each gives every answer a reward. Imports no jax."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jaxpo.config import Run
from jaxpo.objectives.methods.rewards import RewardMethod
from jaxpo.recipe.kinds import find_method
from jaxpo.recipe.lineage import PREVIOUS, with_models


def judge_problems(run: Run, index: int, stage: Any) -> Iterator[str]:
    """Reward models that tell something else than a reward; what is no reward model shows when it is there."""
    before = {s.name: s for s in with_models(run, index)}
    for name in dict.fromkeys(_read_for_rewards(stage)):
        source = list(before.values())[-1] if name == PREVIOUS and before else before.get(name)
        method = find_method(source) if source is not None and source.TRAINS else None
        if isinstance(method, RewardMethod) and method.NO_REWARD:
            yield f"{stage.name}: the judge {name!r} gives answers no rewards: {method.NO_REWARD}"


def _read_for_rewards(stage: Any) -> Iterator[str]:
    """Names of the models that the judges of a work stage, or of a stage with rewards, read."""
    for asked in (stage, *getattr(stage, "reward_funcs", ())):
        if not isinstance(asked, type):
            yield from getattr(asked, "reward_models", tuple)()
