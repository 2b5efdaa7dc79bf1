"""Where a stage's batches come from, and what the training step asks of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol, Self

from jaxtyping import Array, Bool

from jaxpo.config import Stage

Tree = Any


class StepBatch(Protocol):
    """A pytree of arrays, each with rows or examples on its leading axis; only the objective knows what is in it.

    A block is the least that is never cut: as many rows and as many examples as every other block.

    Attributes:
      rows: rows, of which `State.rows_seen` counts those consumed.
      blocks: blocks.
      present: `[N]` True where there is an example; a microbatch without any is not computed.

    A class attribute `POSITIONAL` may name the fields whose arrays are `[R, S, ...]`, S positions: a mesh with the axis
    `sequence` spreads these. Without it all arrays are spread by rows alone.
    """

    @property
    def rows(self) -> int: ...
    @property
    def blocks(self) -> int: ...
    @property
    def present(self) -> Bool[Array, "N"]: ...

    def split(self, parts: int) -> Self:
        """Stack `parts` microbatches on a new leading axis; microbatch i takes blocks i, i + parts, ..."""
        ...

    def tally(self) -> dict[str, Array]:
        """Scalars for the log: "tokens" and "trained" ones (0 where there are none such), "samples"."""
        ...


class Feed(Protocol):
    """The batches of consecutive steps."""

    def next(self, state: Tree) -> StepBatch:
        """This process's share of the next step's batch, as numpy arrays; at most as often as `open` was told.

        Args:
          state: of training, before the step. Its arrays may be under computation, so reading them waits for the step
            before; the step that follows donates them, so none may be kept.
        """
        ...

    def settle(self) -> None:
        """Before a checkpoint or an evaluation: what the feed has begun is on disk, and nothing of it goes on."""
        ...

    def close(self) -> None:
        """End the feed's threads and whatever it holds; called once, also after an error."""
        ...


class Source(Protocol):
    """Batches by position: what comes after `rows_seen` rows does not depend on where a run was interrupted.

    Attributes:
      hash: of everything that the batches depend on; stored with every checkpoint.
    """

    hash: str

    def total_steps(self, stage: Stage) -> int:
        """Optimiser steps of the stage's budget."""
        ...

    def epoch_of(self, rows_seen: int) -> float:
        """Epochs done after `rows_seen` rows over all processes, with the fraction of the current one."""
        ...

    def figures_of(self, rows_seen: int) -> dict[str, float]:
        """What is logged of the data that these rows held, such as each source's epochs in a mixture; may be empty."""
        ...

    def open(self, rows_seen: int, steps: int) -> Feed:
        """The next `steps` batches after `rows_seen` rows."""
        ...


def steps_of(stage: Stage, rows_per_epoch: Callable[[int], int]) -> int:
    """Optimiser steps of a stage's budget; tokens are row slots, epochs are passes over the packed rows.

    Args:
      rows_per_epoch: `epoch -> rows` over all processes.
    """
    if stage.max_steps is not None:
        return stage.max_steps
    if stage.max_tokens is not None:
        return max(1, math.ceil(stage.max_tokens / (stage.rows_per_step * stage.data.row_length)))
    assert stage.num_train_epochs is not None
    whole = math.floor(stage.num_train_epochs)
    rows = sum(rows_per_epoch(e) for e in range(whole))
    rows += math.ceil((stage.num_train_epochs - whole) * rows_per_epoch(whole))
    return max(1, math.ceil(rows / stage.rows_per_step))
