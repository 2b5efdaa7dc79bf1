"""What the trainer says of a generation before it is trained on, token by token: written down, and read on resume."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxpo.checkpoint.fingerprint import fingerprint
from jaxpo.data.packing.batch import Batch
from jaxpo.errors import DataError
from jaxpo.objectives.families.rollouts import OLD_LOGPS
from jaxpo.objectives.methods.rollouts import Penalty
from jaxpo.online.answers import FLOAT, packed, unpacked
from jaxpo.online.batches import Trained, batch_of, taken_apart
from jaxpo.online.generation import Generation
from jaxpo.online.layout import Layout
from jaxpo.online.ledger import Journal, SharedLedger, opened
from jaxpo.online.penalty import Columns, next_coef, padded, token_kl
from jaxpo.online.thresholds import Searching

Tree = Any
TRAINER = "trainer"
"""Name of the ledger: a line per slice, and one of the KL's weight."""


@dataclass(frozen=True)
class Recorded:
    """By number of the answer in its generation.

    Attributes:
      columns: name -> an array per answer.
      kl_coef: weight of the KL in this generation's rewards.
      thresholds: of rewards, where they are searched.
    """

    columns: Mapping[str, Sequence[np.ndarray]] = field(default_factory=dict)
    kl_coef: float = 0.0
    thresholds: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Recorder:
    """Runs the networks over a generation's answers, once, before the first step of its cycle.

    Attributes:
      names: of the columns; "old_logps" may come from the sampler instead.
      read: `(state, batch) -> {name: [R, S]}` of those that a network gives.
      weights: `state ->` what they are read of, for the ledger's name.
      from_sampler: the old log-probs are those that the answers were drawn with.
      penalty: of the method.
      longest: tokens of an answer.
      thresholds: how they are searched; None = they are not.
      opponents: half of every group is an opponent's, of which nothing is trained on and nothing is read.
    """

    journal: Journal
    layout: Layout
    names: tuple[str, ...]
    read: Callable[[Any, Batch], Mapping[str, np.ndarray]]
    weights: Callable[[Any], Tree]
    from_sampler: bool
    penalty: Penalty | None
    longest: int
    opponents: bool = False
    thresholds: Searching | None = None
    _last_lines: list[Mapping[str, Any]] = field(default_factory=list)

    @property
    def asked(self) -> tuple[str, ...]:
        """The columns that networks give."""
        return tuple(name for name in self.names if not (self.from_sampler and name == OLD_LOGPS))

    def of(self, generation: Generation, parts: Sequence[range], state: Any, *, first: bool) -> Recorded:
        """The columns of a generation.

        Args:
          parts: places of the groups of each of its slices.
          first: this is the first step that trains on it; any later one reads what that wrote.

        Raises:
          DataError: it is not there.
        """
        if not self.names:
            return Recorded()
        columns: dict[str, list[np.ndarray]] = {name: [] for name in self.names}
        if self.from_sampler:
            columns[OLD_LOGPS] = [a.sampling_logps for group in generation.groups for a in group.answers]
        if not self.asked and self.penalty is None:
            return Recorded(columns)
        ledger = self._begun(generation, state) if first else self._found(generation.number, len(parts) + 1)
        have = len(ledger.read())
        if have < len(parts):
            ledger.append([self._part(generation, part, state) for part in parts[have:]])
        lines = ledger.read()
        for line in lines[: len(parts)]:
            for name in self.asked:
                columns[name] += [unpacked(text, FLOAT) for text in line[name]]
        if len(lines) == len(parts):
            ledger.append([self._last(generation, columns, state)])
            lines = ledger.read()
        return Recorded(columns, lines[-1]["kl_coef"], lines[-1].get("thresholds", {}))

    def _begun(self, generation: Generation, state: Any) -> SharedLedger:
        about = {"answers": generation.weights, "trained": fingerprint(self.weights(state)), "names": list(self.names)}
        return SharedLedger(self.journal.of(generation.number), TRAINER, about)

    def _found(self, number: int, lines: int = 1) -> SharedLedger:
        """The ledger that an earlier step wrote, of at least so many lines."""
        folder = self.journal.of(number)
        every = [opened(path) for path in sorted(folder.glob(f"{TRAINER}-*.jsonl"))]
        found = [ledger for ledger in every if len(ledger.read()) >= lines]
        if len(found) != 1:
            raise DataError(
                f"{len(found)} whole ledgers of what the trainer said of generation {number} are there, which should "
                "be one.",
                file=folder,
                remedy="Go back to an earlier checkpoint (--resume STEP).",
            )
        return found[0]

    def _part(self, generation: Generation, places: range, state: Any) -> dict[str, Any]:
        every = bare(generation, places)
        groups = np.split(np.arange(len(every)), len(places))
        mine = [i for group in groups for i in group[: len(group) // 2 if self.opponents else None]]
        answers = [every[i] for i in mine]
        values = self.read(state, batch_of(answers, self.layout, (), ())) if self.asked else {}
        found = {}
        for name in self.asked:
            read = [np.full(len(answer.tokens), np.nan, np.float32) for answer in every]
            for i, x in zip(mine, taken_apart(values[name], answers, self.layout), strict=True):
                read[i] = x
            found[name] = [packed(x, FLOAT) for x in read]
        return found

    def _last(self, generation: Generation, columns: Columns, state: Any) -> dict[str, Any]:
        """The KL's weight, and the KL of an answer on average, from which the next weight follows; thresholds."""
        found: dict[str, Any] = self._kl(generation, columns)
        if self.thresholds is not None:
            found |= self.thresholds.line(generation, self._before(generation.number), state)
        return found

    def _before(self, number: int) -> list[Mapping[str, Any]]:
        """The last lines of all generations before this one, each of which is read once."""
        del self._last_lines[number:]  # a run that goes back writes them anew
        while len(self._last_lines) < number:
            self._last_lines.append(self._found(len(self._last_lines)).read()[-1])
        return self._last_lines

    def _kl(self, generation: Generation, columns: Columns) -> dict[str, float]:
        if self.penalty is None:
            return {"kl_coef": 0.0, "kl": 0.0}
        kl = token_kl(self.penalty, padded(generation.groups, self.longest), columns)
        adapts = self.penalty.target is not None and generation.number > 0
        before = self._found(generation.number - 1).read()[-1] if adapts else None
        return {"kl_coef": next_coef(self.penalty, before, len(kl)), "kl": float(kl.sum() / len(kl))}


def bare(generation: Generation, places: range) -> list[Trained]:
    """Answers as networks read them."""
    groups = [generation.groups[place] for place in places]
    each = [(group, answer) for group in groups for answer in group.answers]
    return [Trained(i, group.prompt.ids, answer.tokens, True, {}, {}) for i, (group, answer) in enumerate(each)]
