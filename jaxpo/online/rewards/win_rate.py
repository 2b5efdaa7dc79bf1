"""How often an answer beats the others as its reward: self-play preference optimisation (SPO)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np

from jaxpo.data.rows.formats import Row
from jaxpo.errors import ConfigError
from jaxpo.judges.asking import Ask, Item
from jaxpo.judges.base import Asked, Judge, Made, Networks
from jaxpo.judges.duels import ASYMMETRY, TOLERANCE, against, asymmetry, check_probabilities, rows_of_duels

Pair = tuple[str, str]
Named = tuple[str, Item]


@dataclass(frozen=True)
class WinRateReward(Judge):
    """`r_i = mean over opponents of (2 p - 1)`, p the probability that answer i beats the opponent; in [-1, 1].

    Opponents are the other answers of the generation to the same prompt; with a queue, the newest answers of earlier
    generations to it, which the ledger holds, filled up with the former while there are not enough. No reward model and
    no second policy is needed, and preferences may go in circles. Any loss goes with it. The mean over a
    prompt's answers is 0 where they meet each other alone: not with a queue, nor in one of several groups of a prompt.

    Attributes:
      label: the name in metrics, `rewards/LABEL/mean`.
      judge: who compares. By "duel" it gives an answer the probability, in [0, 1], that it beats the one in the row's
        column `opponent`, and is asked both ways round: P = p(a, b) - p(b, a), and how far the two are from an
        antisymmetric oracle is measured (`rewards/LABEL/asymmetry`). By "score" it scores answers one by one, and
        p = sigmoid(s - s'); by "order" p is 1, 1/2 or 0.
      by: see there.
      queue: B, opponents from earlier generations; 0 = the group's own answers alone.
    """

    label: str = "win_rate"
    judge: Any = None
    by: Literal["duel", "score", "order"] = "duel"
    queue: int = 0

    NAME: ClassVar[str] = "win_rate"

    @property
    def BATCH(self) -> int:  # type: ignore[override]
        """That of the judge."""
        return int(self.judge.BATCH)

    @property
    def MAIN_THREAD(self) -> bool:  # type: ignore[override]
        """That of the judge."""
        return isinstance(self.judge, Judge) and self.judge.MAIN_THREAD

    @property
    def remembers(self) -> int:
        return self.queue

    def check(self, rows: Sequence[Row]) -> None:
        if not isinstance(self.judge, Judge):
            raise ConfigError(f"judge is {self.judge!r}; give one of jaxpo.judges or jaxpo.online.rewards.")
        if len(self.judge.members()) > 1:
            raise ConfigError("judge: a jury has no single opinion of a duel; give one of its members.")
        if self.by not in ("duel", "score", "order"):
            raise ConfigError(f"by is {self.by!r}; it must be duel, score or order.")
        if self.queue < 0:
            raise ConfigError(f"queue is {self.queue}; it must be at least 0.")
        self.judge.check(rows_of_duels(rows) if self.by == "duel" else rows)

    def columns(self) -> tuple[str, ...] | None:
        columns: tuple[str, ...] | None = self.judge.columns()
        return columns

    def identity(self, networks: Networks) -> dict[str, Any]:
        return {"judge": self.NAME, "by": self.by, "queue": self.queue, "of": self.judge.identity(networks)}

    def models(self) -> tuple[str, ...]:
        return self.judge.models() if isinstance(self.judge, Judge) else ()

    def reward_models(self) -> tuple[str, ...]:
        return self.judge.reward_models() if isinstance(self.judge, Judge) else ()

    def open(self, networks: Networks) -> Ask:
        ask: Ask = self.judge.open(networks)
        return ask

    def asked(self, items: Mapping[str, Item], earlier: Mapping[str, Sequence[Named]]) -> Asked:
        """Every two answers that meet, both ways round; or every answer alone, where they are scored."""
        every, met = _meetings(items, earlier, self.queue)
        if self.by != "duel":
            return {key: every[key] for key in dict.fromkeys(key for pair in met for key in pair)}
        ways = dict.fromkeys(way for a, b in met for way in ((a, b), (b, a)))
        return {_name(way): against(every[way[0]], every[way[1]].answer) for way in ways}

    def made(
        self, items: Mapping[str, Item], earlier: Mapping[str, Sequence[Named]], values: Mapping[str, float | None]
    ) -> Made:
        """Win rates of these, and the figure of the oracle's asymmetry, where it was asked both ways round."""
        from jaxpo.losses import win_rates

        _, met = _meetings(items, earlier, self.queue)
        table = {way: self._preference(way, values) for way in met}
        found: dict[str, float | None] = {}
        for key in items:
            own = np.asarray([[p for (a, _), p in table.items() if a == key]], np.float64)  # None becomes NaN
            known = ~np.isnan(own)
            if known.any() or not own.size:
                found[key] = float(win_rates(own, known)[0])
        if self.by != "duel":
            return Made(found)
        both = [(a, b) for a, b in (self._both(way, values) for way in met) if a is not None and b is not None]
        return Made(found, *self._said(asymmetry(both)))

    def _said(self, apart: float) -> tuple[dict[str, float], str]:
        if apart <= TOLERANCE:
            return {ASYMMETRY: apart}, ""
        return {ASYMMETRY: apart}, (
            f"the preference oracle of {self.label} is not antisymmetric: p(a, b) + p(b, a) is {apart:.2f} from 1 "
            "on average, as of a judge that prefers a place to an answer. Both ways round are averaged (said once)"
        )

    def _preference(self, way: Pair, values: Mapping[str, float | None]) -> float | None:
        """P(a, b); None where it is not known."""
        there, back = self._both(way, values)
        if there is None or back is None:
            return None
        if self.by == "duel":
            return there - back
        return float(np.tanh(0.5 * (there - back)) if self.by == "score" else np.sign(there - back))

    def _both(self, way: Pair, values: Mapping[str, float | None]) -> tuple[float | None, float | None]:
        """p(a, b) and p(b, a), or both scores.

        Raises:
          ConfigError: a judge of duels that gives no probabilities.
        """
        names = (_name(way), _name(way[::-1])) if self.by == "duel" else way
        there, back = (values.get(name) for name in names)
        if self.by == "duel":
            check_probabilities((there, back), f'compare scores in {self.label}: by="score".')
        return there, back


def prompt_key(item: Item) -> str:
    """Names what is answered: rows with one prompt share their queue."""
    return json.dumps(item.prompt, sort_keys=True, ensure_ascii=False)


@dataclass
class Opponents:
    """The newest answers to every prompt, in the order in which they were written: a fold over generations.

    Attributes:
      size: of the queue of each prompt.
      queues: by `prompt_key`, the newest last.
    """

    size: int
    queues: dict[str, list[Named]] = field(default_factory=dict)

    def push(self, key: str, item: Item) -> None:
        """Add the newest answer and drop the oldest."""
        queue = self.queues.setdefault(prompt_key(item), [])
        queue.append((key, item))
        del queue[: max(len(queue) - self.size, 0)]


def _meetings(
    items: Mapping[str, Item], earlier: Mapping[str, Sequence[Named]], queue: int
) -> tuple[dict[str, Item], list[Pair]]:
    """All answers by name, and who meets whom: (answer, opponent)."""
    every, met = dict(items), list[Pair]()
    of_prompt: dict[str, list[str]] = {}
    for key, item in items.items():
        of_prompt.setdefault(prompt_key(item), []).append(key)
    for prompt, keys in of_prompt.items():
        before = list(earlier.get(prompt, ()))[-queue:] if queue else []
        every |= dict(before)
        for key in keys:
            siblings = [other for other in keys if other != key]
            opponents = [name for name, _ in before] + siblings
            met += [(key, other) for other in (opponents[:queue] if queue else siblings)]
    return every, met


def _name(way: Pair) -> str:
    return f"{way[0]}>{way[1]}"
