"""What a work stage gets to use: its folder, the run's files, and the models that earlier stages left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jaxpo.convert.model_io import Model
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.judges.network import Network
from jaxpo.models.family import TextConfig, limits
from jaxpo.objectives.encode import Scorer

Tree = Any
SNAPSHOTS = "snapshots"


@dataclass(frozen=True)
class WorkContext:
    """One work stage of a run.

    Attributes:
      folder: the stage's own directory; it may hold what an interrupted start wrote.
      scorer: how this run evaluates its networks.
      say: shows one line to the user.
      check: raises `Preempted` when the user or the scheduler asked the run to stop; call it between pieces of work
        that are safe on disk.
      load: path of a stage's folder or of a snapshot -> its model.
      stages: names of the earlier stages that have a model, in order.
    """

    folder: Path
    run_dir: Path
    seed: int
    tokenizer: Tokenizer
    config: TextConfig
    scorer: Scorer
    say: Callable[[str], None]
    check: Callable[[], None]
    load: Callable[[Path], Model]
    resolve: Callable[[Sequence[str]], tuple[str, ...]]
    stages: tuple[str, ...] = ()

    def files(self, names: Sequence[str]) -> list[Path]:
        """Paths of data files, "corpus:FILE" and "stage:NAME/FILE" resolved."""
        return [Path(name) for name in self.resolve(names)]

    def stage_folder(self, name: str) -> Path:
        """Directory of an earlier stage; "previous" is the last one that has a model."""
        return self.run_dir / "stages" / (self.stages[-1] if name == "previous" else name)

    def model(self, name: str) -> Tree:
        """Parameters of an earlier stage's model."""
        return self.load(self.stage_folder(name)).params["model"]

    def network(
        self,
        name: str,
        max_length: int | Literal["whole"] | None = None,
        truncation: Literal["response_right", "prompt_left"] = "response_right",
    ) -> Network:
        """An earlier stage's model with its heads, ready to score and to generate as the run computes.

        Args:
          max_length: of what it reads, at most what it has positions for, which "whole" is; None = a network's own
            default.
          truncation: what longer texts lose.
        """
        loaded = self.load(self.stage_folder(name))
        how = {name: getattr(self.scorer, name) for name in ("dtype", "attention", "experts")}
        how["truncation"] = truncation
        if max_length is not None:
            most = limits(loaded.config).context
            how["max_length"] = most if max_length == "whole" else min(max_length, most)
        return Network.of(loaded, tokenizer=self.tokenizer, **how)

    def snapshots(self, name: str) -> list[Path]:
        """Folders of the models that a stage kept on its way, earliest first."""
        folder = self.stage_folder(name) / SNAPSHOTS
        return sorted((p for p in folder.glob("*") if p.name.isdigit()), key=lambda p: int(p.name))
