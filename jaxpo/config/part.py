"""What everything that stands in `Run.stages` tells a recipe of itself."""

from __future__ import annotations

from typing import ClassVar


class RecipePart:
    """Base of trained stages, merges and work.

    Attributes:
      TRAINS: parameters are optimised: the stage has data, an optimiser, steps.
      LEAVES_MODEL: later stages can start from what it leaves, or be compared with it.
      seed: of everything that the stage draws: order of rows, dropout, fresh weights, random masks, samples. None = the
        run's.
    """

    TRAINS: ClassVar[bool] = False
    LEAVES_MODEL: ClassVar[bool] = True

    name: str
    seed: int | None

    def outputs(self) -> tuple[str, ...]:
        """Names of the files that the stage will have written when it ends; later stages read them."""
        return ()
