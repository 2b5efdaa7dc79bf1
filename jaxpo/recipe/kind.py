"""What jaxpo knows of a kind of stage, and what the source of its batches is made of. Imports no jax."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from jaxpo.config import Data, Run
from jaxpo.data.rows.needs import Needs
from jaxpo.data.rows.requirements import Purpose
from jaxpo.objectives.methods.base import Method
from jaxpo.objectives.methods.options import Ids, Options
from jaxpo.recipe.measured import LANGUAGE

if TYPE_CHECKING:
    from pathlib import Path

    from jaxpo.data.source import Source
    from jaxpo.data.tokenizer.tokenizer import Tokenizer
    from jaxpo.objectives.encode import Scorer

Problems = Callable[[Run, int, Any], Iterator[str]]


@dataclass(frozen=True)
class Materials:
    """What the source of a stage's batches is made of.

    Attributes:
      rows: packed batches of the stage's training files, with what was recorded for them.
      held_out: of its held-out files; None where there are none.
      frozen, scorers: the networks beside the trained one, with what is fixed of it (`with_fixed`), and how they are
        run; a source that runs the trained network finds there what `state.params` lacks.
      folder: the stage's own, for what a source writes before it yields it.
      seed: of its draws.
      scorer: how the trained network is run.
      whole: what is trained -> the plain model and its heads.
      network: name of an earlier stage, or folder -> its model, ready to judge (`jaxpo.judges.network.Network`).
      say: shows one line to the user.
      show: says on the progress bar where a step stands.
    """

    stage: Any
    rows: Source
    frozen: Mapping[str, Any]
    scorers: Mapping[str, Any]
    folder: Path
    seed: int
    held_out: Source | None
    scorer: Scorer
    whole: Callable[[Any], Any]
    network: Callable[[str], Any]
    say: Callable[[str], None]
    show: Callable[[str], None]


def packed_rows(materials: Materials) -> Source:
    """The rows of the training files, packed."""
    return materials.rows


@dataclass(frozen=True)
class Kind:
    """What jaxpo knows of a kind of stage.

    Attributes:
      runs: "train" (a step, a loop, rows of tokens), "denoise" (likewise, images), "merge" (models into one) or "work"
        (files for later stages).
      purpose: what data are prepared for; of kinds that train.
      families: of the methods that `stage.loss` may name (`Info.family`).
      default: `stage -> method` where `stage.loss` is None; None = a loss must be named.
      metrics: names of what its held-out evaluation measures, beyond `METRICS` of the method.
      more_metrics: `stage -> names` that depend on its settings.
      checks: beyond those of every trained stage; of merges and work, all.
      predicts: its methods ask a model for tokens from those before them, which one that looks both ways cannot give.
      options: `stage -> Options`, what its method is built with.
      scoring: `stage -> fields of Scorer` that its networks are run with in training.
      data: `stage -> Data` that its rows are prepared by.
      make_source: `Materials -> Source` of its batches.
      check_rows: `(stage, training rows, held-out rows or None)`: whatever the stage asks about them can use every one;
        DataError or ConfigError. It is asked when they are read, before any stage begins where they are there then.
      ids: `(stage, tokenizer) -> ids that its method puts in the place of others`; None = it puts none.
      rows: what is asked of the training files, where that is less than what its method reads; None = the same.
      measure: `source -> (state -> {name: value})`, what is measured of held-out rows instead of the loss over them.
    """

    runs: Literal["train", "denoise", "merge", "work"]
    purpose: Purpose = "language"
    families: tuple[str, ...] = ()
    default: Callable[[Any], Method] | None = None
    metrics: tuple[str, ...] = LANGUAGE
    more_metrics: Callable[[Any], Iterator[str]] = lambda stage: iter(())
    checks: tuple[Problems, ...] = ()
    predicts: bool = True
    options: Callable[[Any], Options] = lambda stage: Options()
    scoring: Callable[[Any], Mapping[str, Any]] = lambda stage: {}
    data: Callable[[Any], Data] = lambda stage: stage.data
    make_source: Callable[[Materials], Source] = packed_rows
    check_rows: Callable[[Any, Any, Any], None] = lambda stage, train, held_out: None
    measure: Callable[[Any], Callable[[Any], Mapping[str, float]]] | None = None
    ids: Callable[[Any, Tokenizer], Ids] | None = None
    rows: Needs | None = None

    def asks(self, method: Method) -> Needs:
        """What is read of the rows: what the method needs, unless its stage makes a part of that itself."""
        return method.NEEDS if self.rows is None else self.rows

    @property
    def writes(self) -> bool:
        """Whether its model writes what it learns from."""
        return self.make_source is not packed_rows
