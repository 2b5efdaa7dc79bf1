"""What every method of the catalogue is: a frozen dataclass of hyper-parameters that builds an objective.

No jax here or in the method modules' top level: the command line lists and explains methods without it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from jaxpo.data.needs import Needs
from jaxpo.errors import ConfigError

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.objectives.base import Mean, Objective
    from jaxpo.objectives.encode import Scorer
    from jaxpo.objectives.preference import Pair, Terms
    from jaxpo.objectives.preference_features import Side

PAIRS = Needs(roles=("chosen", "rejected"))
PAIRS_AND_REFERENCE = Needs(roles=("chosen", "rejected"), reference="logps")


@dataclass(frozen=True)
class Info:
    """A method's entry in the catalogue.

    Attributes:
      name: on the command line and in `METHODS`.
      function: import path of the pure loss.
      family: shape of its data.
      paper: title.
      arxiv: identifier, or "" for what predates arXiv.
      certainty: where the formula comes from and what is open.
      aliases: other names that mean exactly this, TRL's `loss_type` among them.
    """

    name: str
    function: str
    family: Literal["pairs", "pairs, coupled", "unpaired", "lists", "reward model"]
    paper: str
    arxiv: str
    certainty: str
    aliases: tuple[str, ...] = ()


def number(
    default: float, *, above: float | None = None, at_least: float | None = None, at_most: float | None = None
) -> Any:
    """A numeric field with its range."""
    return field(default=default, metadata={"above": above, "at_least": at_least, "at_most": at_most})


@dataclass(frozen=True)
class Method(ABC):
    """Base of the methods' dataclasses."""

    INFO: ClassVar[Info]
    NEEDS: ClassVar[Needs]

    @abstractmethod
    def objective(self, scorer: Scorer, cached_reference: bool) -> Objective:
        """Compose the objective; hyper-parameters are in range."""

    def build(self, scorer: Scorer, *, cached_reference: bool) -> Objective:
        """The objective of this method.

        Args:
          scorer: how the networks are run.
          cached_reference: reference log-probs come with the batch (`per_token["ref_logps"]`).

        Raises:
          ConfigError: a hyper-parameter out of range, or a cache that cannot serve this method.
        """
        problems = self.problems()
        if cached_reference and self.NEEDS.reference == "vocab":
            problems.append(
                f"{self.INFO.name}: precompute_ref_log_probs cannot be used, because the loss compares the two models' "
                "whole distributions and not one log-prob per token; set precompute_ref_log_probs to False."
            )
        if problems:
            raise ConfigError(problems)
        return self.objective(scorer, cached_reference)

    def problems(self) -> list[str]:
        """Fields out of range, one sentence each; empty if there are none."""
        found = []
        for f in fields(self):
            value, limits = getattr(self, f.name), f.metadata
            if "above" not in limits:
                continue
            wrong = not isinstance(value, (int, float)) or not math.isfinite(value)
            wrong = wrong or (limits["above"] is not None and value <= limits["above"])
            wrong = wrong or (limits["at_least"] is not None and value < limits["at_least"])
            wrong = wrong or (limits["at_most"] is not None and value > limits["at_most"])
            if wrong:
                found.append(f"{self.INFO.name}: {f.name} is {value!r} but must be a number {_range(limits)}.")
        return found

    def check_columns(self, columns: Mapping[str, Any]) -> list[str]:
        """Problems of the data set's per-example columns (name -> numpy array); empty if there are none."""
        return []


@dataclass(frozen=True)
class PairMethod(Method):
    """A method that is one loss on pairs: subclasses give the hyper-parameters, `INFO`, `NEEDS` and `loss`.

    Attributes:
      TOKENS: the pair's sides carry their per-token rows.
      COUPLED: the loss mixes pairs; it then sees all pairs of a step at once.
    """

    TOKENS: ClassVar[bool] = False
    COUPLED: ClassVar[bool] = False

    @abstractmethod
    def loss(self, pair: Pair) -> Terms:
        """Unreduced loss `[N]`, or a mapping from the name of a count to the term it divides."""

    def reward(self, side: Side) -> Array:
        """`beta (P - R)`, which is `beta P` without a reference: what TRL logs as rewards. For the metrics alone."""
        return getattr(self, "beta", 1.0) * side.log_ratio

    def metrics(self, pair: Pair) -> dict[str, Mean]:
        """Metrics beyond TRL's common ones."""
        return {}

    def objective(self, scorer: Scorer, cached_reference: bool) -> Objective:
        from jaxpo.objectives.preference import pairwise

        return pairwise(
            self.INFO.name,
            scorer,
            self.loss,
            needs=self.NEEDS,
            cached_reference=cached_reference,
            reward=self.reward,
            tokens=self.TOKENS,
            coupled=self.COUPLED,
            metrics=self.metrics,
        )


def _range(limits: Mapping[str, float | None]) -> str:
    words = {"above": "greater than", "at_least": "at least", "at_most": "at most"}
    return (
        " and ".join(f"{word} {limits[k]:g}" for k, word in words.items() if limits[k] is not None) or "that is finite"
    )
