"""Who wins a duel of two answers: whoever compares them gives P(first > other), which need not come from a score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxpo.errors import ConfigError
from jaxpo.judges.asking import Item
from jaxpo.judges.base import Judge, Networks
from jaxpo.judges.duels import ASYMMETRY, Ways, against, asymmetry, check_probabilities, rows_of_duels
from jaxpo.judges.ledger import digest
from jaxpo.judges.questions import Question
from jaxpo.judges.reward import unread
from jaxpo.judges.scoring import AskMember, score_all
from jaxpo.judges.verifier import VerifierJudge


@dataclass(frozen=True)
class Duel:
    """Two answers to one question."""

    question: Question
    first: str
    other: str


@dataclass
class Ring:
    """What an oracle uses, and what it finds out about itself.

    Attributes:
      networks: name -> `jaxpo.judges.network.Network`.
      folder: of the ledgers.
      ways: P(a > b) and P(b > a) of the duels that were asked both ways round.
      failures: an answer -> why nothing is said of it.
    """

    networks: Networks
    folder: Path
    ask: AskMember
    ways: list[Ways] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    def figures(self) -> dict[str, float]:
        """The mean asymmetry, where one was measured."""
        return {ASYMMETRY: asymmetry(self.ways)} if self.ways else {}


Play = Callable[[Sequence[Duel]], list[float | None]]
"""Duels -> P(first > other) of each; None where whoever was asked failed."""


@dataclass(frozen=True)
class Oracle(ABC):
    """Compares two answers to one prompt."""

    def problems(self) -> list[str]:
        """What is wrong with its settings."""
        return []

    def models(self) -> tuple[str, ...]:
        """Names of the stages that it asks."""
        return ()

    def reward_models(self) -> tuple[str, ...]:
        """Those of them that are to give every answer a reward by itself."""
        return ()

    def check(self, questions: Sequence[Question]) -> None:
        """Refuse rows that cannot be judged, before anything expensive; DataError."""
        return

    @abstractmethod
    def open(self, ring: Ring) -> Play:
        """How it is asked."""


@dataclass(frozen=True)
class JudgedOracle(Oracle):
    """One that asks a judge.

    Attributes:
      judge: one of `jaxpo.judges`.
    """

    judge: Any = field(default_factory=VerifierJudge)

    def problems(self) -> list[str]:
        if not isinstance(self.judge, Judge):
            return [f"oracle.judge is {self.judge!r}; give one of jaxpo.judges."]
        return self.judge.problems()

    def models(self) -> tuple[str, ...]:
        return self.judge.models() if isinstance(self.judge, Judge) else ()

    def reward_models(self) -> tuple[str, ...]:
        return self.judge.reward_models() if isinstance(self.judge, Judge) else ()

    def check(self, questions: Sequence[Question]) -> None:
        self.judge.check([q.row for q in questions])


@dataclass(frozen=True)
class ByScore(JudgedOracle):
    """The answer with the larger score wins: P is 1, 0, or 1/2 where both have the same.

    Attributes:
      judge: scores answers one by one; a reward model is one.
    """

    def open(self, ring: Ring) -> Play:
        def play(duels: Sequence[Duel]) -> list[float | None]:
            both = [[Item(d.question.prompt, text, d.question.row) for text in (d.first, d.other)] for d in duels]
            scores = score_all(self.judge, [x for pair in both for x in pair], ring.networks, ring.folder, ring.ask)
            ring.failures |= scores.failures
            found = [[scores.values.get(x.key(None)) for x in pair] for pair in both]
            return [None if a is None or b is None else 0.5 * (1.0 + float(np.sign(a - b))) for a, b in found]

        return play


@dataclass(frozen=True)
class ByDuel(JudgedOracle):
    """A judge of pairs, asked both ways round: P = (P(a > b) + 1 - P(b > a)) / 2, and how far the two are apart.

    Attributes:
      judge: gives an answer the probability, in [0, 1], that it beats the one in the row's column `opponent`.
    """

    def check(self, questions: Sequence[Question]) -> None:
        self.judge.check(rows_of_duels(q.row for q in questions))

    def open(self, ring: Ring) -> Play:
        def play(duels: Sequence[Duel]) -> list[float | None]:
            ways = [
                against(Item(d.question.prompt, answer, d.question.row), opponent)
                for d in duels
                for answer, opponent in ((d.first, d.other), (d.other, d.first))
            ]
            scores = score_all(self.judge, ways, ring.networks, ring.folder, ring.ask, "duel")
            ring.failures |= scores.failures
            found = [scores.values.get(item.key(None)) for item in ways]
            check_probabilities(found, "compare scores by ByScore.")
            return [self._both(a, b, ring) for a, b in zip(found[::2], found[1::2], strict=True)]

        return play

    def _both(self, there: float | None, back: float | None, ring: Ring) -> float | None:
        if there is None or back is None:
            return None
        ring.ways.append((there, back))
        return 0.5 * (there + 1.0 - back)


@dataclass(frozen=True)
class ByPreferenceModel(Oracle):
    """A general preference model, whose log-odds are antisymmetric by their form.

    Of answers too long for it nothing is known.

    Attributes:
      model: an earlier stage of `gpm`.
    """

    model: str = "reward"

    def models(self) -> tuple[str, ...]:
        return (self.model,)

    def open(self, ring: Ring) -> Play:
        network = ring.networks(self.model)
        if not network.asked_reader().method.COMPARES_ANSWERS:
            raise ConfigError(f"the oracle's model {self.model!r} compares no answers; name a stage of gpm.")

        def play(duels: Sequence[Duel]) -> list[float | None]:
            prompts = [d.question.prompt for d in duels for _ in range(2)]
            texts = [text for d in duels for text in (d.first, d.other)]
            whys = unread(network, self.model, prompts, texts)
            for prompt, text, why in zip(prompts, texts, whys, strict=True):
                if why is not None:
                    ring.failures[digest(prompt, text)] = why
            fits = np.asarray([why is None for why in whys], bool).reshape(-1, 2).all(axis=1)
            asked = np.flatnonzero(np.repeat(fits, 2))
            found: dict[int, float | None] = dict.fromkeys(range(len(duels)))
            if asked.size:
                how = [prompts[i] for i in asked], [texts[i] for i in asked], [2] * int(fits.sum())
                tables = network.mean_scores(*how)[1]
                wins = (float(np.exp(-np.logaddexp(0.0, -table[0, 1]))) for table in tables)
                found |= dict(zip(np.flatnonzero(fits).tolist(), wins, strict=True))
            return [found[i] for i in range(len(duels))]

        return play
