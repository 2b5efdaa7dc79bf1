"""Which networks a stage keeps beside the trained one, and where each comes from. Imports no jax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxpo.config.networks import Beside
from jaxpo.data.rows.needs import RECORDABLE, REFERENCE, TEACHER, Kind, Needs

START = Beside().source


@dataclass(frozen=True)
class Companion:
    """A network beside the trained one.

    Attributes:
      name, kind: as the method names it, and what it reads of it.
      source: "start", an earlier stage or a folder; None = only records of it are there.
      recorded: what is read is stored beforehand, instead of the network being run in every step.
      moves: it follows the trained network, in the state.
    """

    name: str
    kind: Kind
    source: str | None
    recorded: bool
    moves: bool = False


def companions(stage: Any, needs: Needs) -> tuple[Companion, ...]:
    """Every network that a stage's method reads, from `Stage.beside` and the shorter fields for the usual two."""
    return tuple(companion(stage, name, kind) for name, kind in needs.networks)


def companion(stage: Any, name: str, kind: Kind) -> Companion:
    """One of them; what `Stage.beside` says goes before a shorter field, and both before the default."""
    given, short = dict(stage.beside).get(name), shorter(stage).get(name, Short())
    moves = name == REFERENCE and getattr(stage, "sync_ref_model", False)
    wanted = short.recorded if given is None or given.recorded is None else given.recorded
    recorded = kind in RECORDABLE and stage.RECORDS and not moves if wanted is None else wanted
    return Companion(name, kind, _source(given, short, name), recorded, moves)


def _source(given: Beside | None, short: Short, name: str) -> str | None:
    if given is not None and (given.source != START or short.source is None):
        return given.source
    return short.source if name == TEACHER else START


@dataclass(frozen=True)
class Short:
    """What the fields that are about one network alone say of it.

    Attributes:
      field: the one about recording.
    """

    source: str | None = None
    recorded: bool | None = None
    field: str = ""


def shorter(stage: Any) -> dict[str, Short]:
    """The short spellings of `Stage.beside`, by the name of the network."""
    found = {}
    if hasattr(stage, "precompute_ref_log_probs"):
        found[REFERENCE] = Short(None, stage.precompute_ref_log_probs, "precompute_ref_log_probs")
    if hasattr(stage, "precompute_teacher"):
        found[TEACHER] = Short(stage.teacher, stage.precompute_teacher, "precompute_teacher")
    return found
