"""What became of answers, and what a method remembers of them: a fold over the ledger, which a resumed run re-reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxpo.objectives.methods.outcomes import Outcomes, Paid
from jaxpo.objectives.methods.rollouts import Memory
from jaxpo.online.generation import Generation


def outcomes_of(generation: Generation, verifies: Sequence[int], longest: int) -> Outcomes:
    """Of a generation's answers.

    Args:
      verifies: numbers of the rewards that say whether an answer is right; where several do, all must.
      longest: tokens that an answer may have.
    """
    said = generation.rewards[..., list(verifies)]
    known = ~np.isnan(said)
    right = np.all(~known | (said >= 1), axis=-1)
    groups = generation.groups
    return Outcomes(
        np.where(known.any(axis=-1), right.astype(float), np.nan),
        np.asarray([[answer.written for answer in group.answers] for group in groups]),
        np.asarray([[answer.finished for answer in group.answers] for group in groups], bool),
        [[answer.tokens for answer in group.answers] for group in groups],
        [group.prompt.number for group in groups],
        [group.prompt.columns for group in groups],
        longest,
    )


@dataclass
class Past:
    """The memory of a stage before each of its generations: every generation of the ledger is folded in once, in order.

    Attributes:
      remembered: `(memory, outcomes) -> memory`.
      read: number of a generation that is in the ledger -> its outcomes.
    """

    remembered: Callable[[Memory, Outcomes], Memory]
    read: Callable[[int], Outcomes]
    _memory: Memory = field(default_factory=dict)
    _folded: int = 0

    def before(self, generation: int) -> Memory:
        """Of all generations before this one."""
        if generation < self._folded:
            self._memory, self._folded = {}, 0
        while self._folded < generation:
            self._memory = self.remembered(self._memory, self.read(self._folded))
            self._folded += 1
        return self._memory


@dataclass
class Paying:
    """A generation's rewards as the method pays them; what it says of them is kept in `figures`."""

    method: Any
    outcomes: Outcomes
    memory: Memory
    figures: dict[str, float] = field(default_factory=dict)

    def __call__(self, rewards: np.ndarray) -> Paid:
        found: Paid = self.method.paid(rewards, self.outcomes, self.memory)
        self.figures |= found.figures
        return found
