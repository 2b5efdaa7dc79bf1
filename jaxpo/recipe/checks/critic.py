"""The checks of where a stage's critic comes from. Imports no jax."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxpo.config import Run
from jaxpo.errors import did_you_mean
from jaxpo.recipe.checks.model import difference
from jaxpo.recipe.checks.online import answering_of
from jaxpo.recipe.kinds import method_of
from jaxpo.recipe.lineage import declared_model, with_models

CRITIC, VALUE = "critic", "value"
ANSWERS = ("completion",)


def critic_problems(run: Run, index: int, stage: Any) -> Iterator[str]:
    """A critic judges single answers; `critic_from` is a reward model of its shape, for a loss that has one."""
    source, where = getattr(stage, "critic_from", None), f"{stage.name}.critic_from"
    needs = getattr(getattr(stage, "loss", None), "NEEDS", None)
    single = needs is not None and needs.roles == ANSWERS and answering_of(stage).examples == "each"
    if needs is not None and CRITIC in needs.extra and not single:
        yield (
            f"{stage.name}.loss: {stage.loss.INFO.name} has a critic, which says what the tokens of single answers are "
            "worth, and learns from two answers at a time; take a method on pairs without one, or ppo on answers."
        )
    if source is None:
        return
    if needs is None or CRITIC not in needs.extra:
        yield f"{where}: {source!r}, but the loss has no critic; leave it out, or take the loss ppo."
        return
    if len(getattr(stage.loss, "streams", ("",))) > 1:
        yield f"{where}: {source!r} has one head, and this critic one for every stream of rewards; leave it out."
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
    return tuple(method_of(stage).NEEDS.extra) if stage.TRAINS else ()
