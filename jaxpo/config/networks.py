"""Networks that a stage keeps beside the one that it trains."""

from __future__ import annotations

from dataclasses import dataclass

from jaxpo.config.places import ModelFolder


@dataclass(frozen=True)
class Beside:
    """Where one of them comes from, and when it is run; which ones there are, and their names, is the loss's to say.

    Attributes:
      source: "start", the model that the stage starts from; an earlier stage's name; or a run directory, a stage
        directory, or an HF export, with the run's tokenizer.
      recorded: True = what the loss reads of every token is computed once and stored; False = the network runs in
        every step; None = stored, except where the loss needs its whole distributions or where it moves.
    """

    source: ModelFolder = "start"
    recorded: bool | None = None
