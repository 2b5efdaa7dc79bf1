"""How a stage uses a method. Imports no jax."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jaxpo.data.rows.needs import REFERENCE, TEACHER

if TYPE_CHECKING:
    import numpy as np

    from jaxpo.objectives.encode import Scorer


@dataclass(frozen=True)
class Ids:
    """What takes the place of tokens that are hidden.

    Attributes:
      mask: id of the token that says that one is hidden.
      ordinary: `[n]` ids of all tokens that are not special, among which others are drawn.
    """

    mask: int
    ordinary: np.ndarray


@dataclass(frozen=True)
class Options:
    """How a stage uses a method.

    Attributes:
      recorded: names of the networks whose numbers come with the batch, instead of being run; see `recorded_column`.
      use_weighting: weight each pair by how likely the policy is to write it (WPO).
      diagnostics: names of further measurements, see `jaxpo.objectives.diagnostics`.
      groups: names of the groups that the rows belong to (their column `group`), by which accuracy is measured too.
      scorers: name -> how a network with its own architecture is run; the others are run as the trained one.
      query_length: tokens of a query, of stages that train retrievers; 0 = unknown.
      ids: what takes the place of tokens that are hidden, of stages that hide some; None = there is no tokenizer.
      max_completion_length: tokens that an answer may have, of stages whose model writes them; 0 = unknown.
    """

    recorded: frozenset[str] = frozenset()
    use_weighting: bool = False
    diagnostics: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    scorers: Mapping[str, Scorer] = field(default_factory=dict)
    max_completion_length: int = 0
    query_length: int = 0
    ids: Ids | None = None


def why_not_recorded(network: str, kind: str) -> str:
    """A sentence with the field to change; the two networks with fields of their own are spoken of by them."""
    if network == REFERENCE:
        return (
            "precompute_ref_log_probs cannot be used, because the loss compares the two models' whole distributions "
            "and not one log-prob per token; set precompute_ref_log_probs to False."
        )
    if network == TEACHER:
        return (
            "precompute_teacher cannot be used, because the loss reads the teacher's whole distribution and a record "
            "keeps its likeliest tokens; set precompute_teacher to False."
        )
    what = "compares whole distributions over the vocabulary" if kind == "vocab" else "runs it inside itself"
    return f"{network!r} cannot be recorded, because the method {what}; it runs in every step."
