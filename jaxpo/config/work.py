"""The stages that train nothing and write files for later stages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from jaxpo.config.part import RecipePart


@dataclass(frozen=True)
class Work(RecipePart, ABC):
    """Base of the stages that train nothing: they write files for later stages, with the models there are by then.

    Later stages name such a file as "stage:NAME/FILE". Subclasses are frozen dataclasses whose module imports no jax;
    they do their work in `run`.

    Attributes:
      seed: of what it draws (`context.seed`); None = the run's.
    """

    LEAVES_MODEL: ClassVar[bool] = False

    name: str
    seed: int | None = field(default=None, kw_only=True)

    @abstractmethod
    def outputs(self) -> tuple[str, ...]:
        """Names of the files that the stage will have written when it ends."""

    def inputs(self) -> tuple[str, ...]:
        """Data files that it reads, "corpus:" and "stage:" ones included."""
        return ()

    def needed_models(self) -> tuple[str, ...]:
        """Earlier stages whose models it uses; "previous" is the last one that has a model."""
        return ()

    def reward_models(self) -> tuple[str, ...]:
        """Those of them that are to give every answer a reward by itself."""
        return ()

    def problems(self) -> list[str]:
        """What is wrong with its own settings, one sentence each; asked before the run begins."""
        return []

    def check_inputs(self, files: Sequence[Path]) -> None:
        """Raise DataError on the first row that it cannot use; asked before the first stage where the files exist.

        Args:
          files: paths of `inputs()`.
        """
        return

    @abstractmethod
    def run(self, context: Any) -> dict[str, Any]:
        """Write the files; returns counts and figures for the run's summary.

        A second call after an interruption goes on from what lies in `context.folder`.

        Args:
          context: a `jaxpo.construct.context.WorkContext`.
        """
