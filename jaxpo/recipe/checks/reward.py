"""The checks of a reward stage: the ranges of its own numbers, and which of them its loss reads."""

from __future__ import annotations

import math
from collections.abc import Iterator

from jaxpo.config import Reward, Run
from jaxpo.config.fields import flag


def reward_problems(run: Run, index: int, stage: Reward) -> Iterator[str]:
    """Ranges of the reward model's numbers."""
    smoothing, centring = stage.label_smoothing, stage.center_rewards_coefficient
    if not 0 <= smoothing <= 0.5:
        yield f"{stage.name}.label_smoothing: {smoothing} must lie in [0, 0.5]; it is the share of flipped labels."
    if centring is not None and not 0 <= centring < math.inf:
        yield f"{stage.name}.center_rewards_coefficient: {centring} must be a number at least 0, or None."
    for field in ("embedding_dropout", "pooled_dropout"):
        if not 0 <= getattr(stage, field) < 1:
            yield f"{stage.name}.{field}: {getattr(stage, field):g} must lie in [0, 1)."
    if stage.loss is not None:
        yield from unread_settings(stage)
        yield from view_problems(stage)
        yield from lonely_users(stage)
        yield from unnamed_classes(stage)


def unnamed_classes(stage: Reward) -> Iterator[str]:
    """A classifier of words knows the classes that there are."""
    needs = getattr(stage.loss, "NEEDS", None)
    if needs is not None and "tag" in needs.per_token and not needs.classes:
        yield (
            f"{stage.name}.loss: {flag((stage.name, 'loss', 'classes'))} is empty; give the names of the rows' "
            "classes, which `jaxpo data inspect FILE` shows."
        )


def view_problems(stage: Reward) -> Iterator[str]:
    """A loss that contrasts two dropout views needs dropout; one that moves the parameters trains all of them."""
    if getattr(stage.loss, "TWO_VIEWS", False) and not (stage.embedding_dropout or stage.pooled_dropout):
        yield (
            f"{stage.name}.loss: {stage.loss.INFO.name} contrasts two dropout views, which are alike without dropout; "
            f"set {flag((stage.name, 'pooled_dropout'))} 0.1."
        )
    if getattr(stage.loss, "MOVES_ALL", False) and (stage.lora is not None or stage.train != ("*",)):
        part = "lora" if stage.lora is not None else "train"
        yield (
            f"{stage.name}.{part}: {stage.loss.INFO.name} moves all parameters before it reads pairs, but the stage "
            f"trains a part of them; leave {part} out, or use bradley_terry."
        )


def lonely_users(stage: Reward) -> Iterator[str]:
    """A model of users needs several, but for a stage that fits one more to what is there."""
    for column, names in getattr(getattr(stage.loss, "NEEDS", None), "names", ()):
        if not names:
            where = flag((stage.name, "loss", f"{column}s"))
            yield f"{stage.name}.loss: {where} is empty; give the names that the column {column!r} of the rows holds."
        if len(names) == 1 and stage.train == Reward.train:
            yield (
                f"{stage.name}.loss: of one {column} alone ({names[0]}) nothing is learnt about who prefers what; name "
                f"several, train bradley_terry, or fit {names[0]} to a finished model with "
                f"{flag((stage.name, 'train'))} '{column}s/*'."
            )


def unread_settings(stage: Reward) -> Iterator[str]:
    """The stage's own settings are those of its Bradley-Terry loss; a loss that is given has its own."""
    loss = getattr(getattr(stage.loss, "INFO", None), "name", "another one")
    for field, default in (("label_smoothing", 0.0), ("center_rewards_coefficient", None)):
        if getattr(stage, field) == default:
            continue
        instead = f"; set {flag((stage.name, 'loss', field))} instead" if hasattr(stage.loss, field) else ""
        yield (
            f"{stage.name}.{field}: {getattr(stage, field)} belongs to the Bradley-Terry loss that the stage has by "
            f"itself, but its loss is {loss}, which does not read it; leave it out{instead}."
        )
