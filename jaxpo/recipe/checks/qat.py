"""The checks of a stage that trains on a grid of few bits."""

from __future__ import annotations

from collections.abc import Iterator

from jaxpo.config import Stage
from jaxpo.config.fields import flag
from jaxpo.recipe.kinds import kind_of


def qat_problems(stage: Stage) -> Iterator[str]:
    """Groups that a grid has not, and what does not go with rounded weights."""
    if stage.qat is None:
        return
    name = f"{stage.name}.qat"
    if stage.qat.group < 0:
        yield f"{name}.group: {stage.qat.group} must be a number of values, or 0 for whole rows."
    elif stage.qat.grid == "q4_0" and stage.qat.group != 32:
        yield f"{name}.group: {stage.qat.group}: q4_0 has groups of 32; choose that, or the grid int4."
    if stage.lora is not None:
        yield (
            f"{name}: an adapter is added to a model that stays as it is, and their sum lies on no grid; train without "
            f"{flag((stage.name, 'lora'))}, or round the merged model with jaxpo quantize."
        )
    if getattr(stage, "sync_ref_model", False):
        yield f"{name}: sync_ref_model would move the reference after weights that are not rounded; leave one out."
    if kind_of(stage).purpose == "prompts":
        yield f"{name}: the model would write its rollouts with weights that are not rounded; train on data instead."
