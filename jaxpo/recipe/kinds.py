"""The kinds of stages, as one table: what each minimises, asks of its data, and measures, and how it is checked.

A new kind of stage is its configuration, an entry here, and files of its own. Imports no jax.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from jaxpo.config import SFT, Distill, Merge, Preference, Pretrain, RecipePart, Reward, Run, Work
from jaxpo.data.rows.requirements import Purpose
from jaxpo.errors import ConfigError
from jaxpo.objectives.methods.base import Method
from jaxpo.objectives.methods.bradley_terry import BradleyTerry
from jaxpo.objectives.methods.options import Options
from jaxpo.objectives.next_token import NextToken, NextTokenOfDocuments
from jaxpo.recipe.beside import Companion, companions
from jaxpo.recipe.checks.distill import teacher_problems
from jaxpo.recipe.checks.lora import sync_problems
from jaxpo.recipe.checks.merge import merge_problems
from jaxpo.recipe.checks.optimizer import dropout_problems
from jaxpo.recipe.checks.reward import reward_problems
from jaxpo.recipe.checks.work import work_problems
from jaxpo.recipe.measured import LANGUAGE, PREFERENCE, REWARD, diagnostic_metrics

if TYPE_CHECKING:
    from pathlib import Path

    from jaxpo.data.source import Source

Problems = Callable[[Run, int, Any], Iterator[str]]


@dataclass(frozen=True)
class Materials:
    """What the source of a stage's batches is made of.

    Attributes:
      rows: packed batches of the stage's training files, with what was recorded for them.
      frozen, scorers: the networks beside the trained one, with what is fixed of it (`with_fixed`), and how they are
        run; a source that runs the trained network finds there what `state.params` lacks.
      folder: the stage's own, for what a source writes before it yields it.
      seed: of its draws.
    """

    stage: Any
    rows: Source
    frozen: Mapping[str, Any]
    scorers: Mapping[str, Any]
    folder: Path
    seed: int


def packed_rows(materials: Materials) -> Source:
    """The rows of the training files, packed."""
    return materials.rows


@dataclass(frozen=True)
class Kind:
    """What jaxpo knows of a kind of stage.

    Attributes:
      runs: "train" (a step, a loop, data), "merge" (models into one) or "work" (files for later stages).
      purpose: what data are prepared for; of kinds that train.
      families: of the methods that `stage.loss` may name (`Info.family`).
      default: `stage -> method` where `stage.loss` is None; None = a loss must be named.
      metrics: names of what its held-out evaluation measures, beyond `METRICS` of the method.
      more_metrics: `stage -> names` that depend on its settings.
      checks: beyond those of every trained stage; of merges and work, all.
      options: `stage -> Options`, what its method is built with.
      scoring: `stage -> fields of Scorer` that its networks are run with in training.
      make_source: `Materials -> Source` of its batches.
    """

    runs: Literal["train", "merge", "work"]
    purpose: Purpose = "language"
    families: tuple[str, ...] = ()
    default: Callable[[Any], Method] | None = None
    metrics: tuple[str, ...] = LANGUAGE
    more_metrics: Callable[[Any], Iterator[str]] = lambda stage: iter(())
    checks: tuple[Problems, ...] = ()
    options: Callable[[Any], Options] = lambda stage: Options()
    scoring: Callable[[Any], Mapping[str, Any]] = lambda stage: {}
    make_source: Callable[[Materials], Source] = packed_rows


KINDS: dict[type[RecipePart], Kind] = {
    Pretrain: Kind("train", "language", default=lambda stage: NextTokenOfDocuments()),
    SFT: Kind(
        "train",
        "sft",
        families=("sft",),
        default=lambda stage: NextToken(),
        checks=(dropout_problems,),
        scoring=lambda stage: {"embedding_dropout": stage.embedding_dropout},
    ),
    Distill: Kind(
        "train",
        "sft",
        families=("distillation",),
        checks=(teacher_problems,),
    ),
    Preference: Kind(
        "train",
        "preference",
        families=("pairs", "pairs, coupled", "lists", "unpaired"),
        metrics=PREFERENCE,
        more_metrics=diagnostic_metrics,
        checks=(sync_problems,),
        options=lambda stage: Options(use_weighting=stage.use_weighting, diagnostics=stage.diagnostics),
    ),
    Reward: Kind(
        "train",
        "preference",
        families=("reward model",),
        default=lambda stage: BradleyTerry(stage.label_smoothing, stage.center_rewards_coefficient),
        metrics=REWARD,
        checks=(reward_problems,),
        scoring=lambda stage: {name: getattr(stage, name) for name in ("embedding_dropout", "pooled_dropout")},
    ),
    Merge: Kind("merge", checks=(merge_problems,)),
    Work: Kind("work", checks=(work_problems,)),
}


def kind_of(stage: Any) -> Kind:
    """The kind of a stage: that of its class, or of the nearest class that it derives from.

    Raises:
      ConfigError: it is of no kind in the table.
    """
    found = find_kind(stage)
    if found is None:
        raise ConfigError(f"{type(stage).__name__} is no kind of stage; there are {kind_names()}.")
    return found


def find_kind(stage: Any) -> Kind | None:
    """As `kind_of`; None for what is no stage."""
    return next((KINDS[cls] for cls in type(stage).__mro__ if cls in KINDS), None)


def kind_names() -> str:
    """All kinds, as messages list them."""
    *names, last = (cls.__name__ if cls is not Work else "a work stage" for cls in KINDS)
    return f"{', '.join(names)}, or {last}"


def kinds_for(family: str) -> str:
    """The kinds of stages that minimise methods of a family, as messages name them; "" when there is none."""
    return " or ".join(cls.__name__ for cls, kind in KINDS.items() if family in kind.families)


def method_of(stage: Any) -> Method:
    """What a trained stage minimises: the method that it names, or its kind's own.

    Raises:
      ConfigError: it names none and its kind has none.
    """
    named: Method | None = getattr(stage, "loss", None)
    if named is not None:
        return named
    default = kind_of(stage).default
    if default is None:
        raise ConfigError(f"stage {stage.name}: {type(stage).__name__} has no method of its own; give it a loss.")
    return default(stage)


def networks_of(stage: Any) -> tuple[Companion, ...]:
    """The networks that a trained stage keeps beside the one that it trains."""
    return companions(stage, method_of(stage).NEEDS)
