"""What the parts of on-policy pairing share: the options, the state, and how judges are asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from jaxpo.construct.least import below
from jaxpo.construct.on_policy.best_worst import Candidate, Ties
from jaxpo.judges.asking import Item, Patience, Replies, ask_all
from jaxpo.judges.base import Judge, Networks
from jaxpo.judges.ledger import Ledger
from jaxpo.judges.questions import Question
from jaxpo.judges.scoring import score_all
from jaxpo.sampling.sampler import Sampler


@dataclass(frozen=True)
class PairOptions:
    """How the pairs are made.

    Attributes:
      samples: on-policy answers per prompt.
      temperature, top_k, top_p, max_new_tokens: of the sampling.
      given: the rows' own answers are candidates too; False = samples alone, so that a reward model cannot learn who
        wrote an answer, but a prompt whose samples are equally good or bad makes no pair.
      keep_unfinished: answers that were cut off at `max_new_tokens` are candidates too.
      ties: between candidates of one score; see `best_and_worst`.
      min_score: pairs whose chosen answer scores less are left out; None = all stay.
      min_margin: pairs whose scores differ by less are left out; equal scores never make a pair.
      rescore: a refined answer is judged too, and used only if it scores no less than the answer it revises.
      partly_judged: where the judge fails on some answers to a prompt the others are compared; False = the row is left
        out.
      tries: a judge or refiner that fails is asked so often about one answer; the next run asks again.
      max_rows: answers sampled at once.
    """

    samples: int = 5
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    max_new_tokens: int = 128
    given: bool = True
    keep_unfinished: bool = False
    ties: Ties = "given"
    min_score: float | None = None
    min_margin: float = 0.0
    rescore: bool = True
    partly_judged: bool = False
    tries: int = 3
    max_rows: int = 64

    def problems(self) -> list[str]:
        """What is out of range, each by its name."""
        low = {"samples": 0, "max_new_tokens": 1, "tries": 1, "max_rows": 1, "min_margin": 0}
        found = below(self, low)
        if not self.given and self.samples < 2:
            found.append(f"samples is {self.samples} and given is False: a pair needs two; give samples at least 2.")
        if not self.temperature > 0:
            found.append(f"temperature is {self.temperature} but must be greater than 0: all samples would be alike.")
        return found

    @property
    def pair_options(self) -> PairOptions:
        """These alone, out of a class that has more."""
        return PairOptions(**{f.name: getattr(self, f.name) for f in fields(PairOptions)})

    @property
    def sampler(self) -> Sampler:
        """Settings of the draw."""
        return Sampler(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)


@dataclass
class Workshop:
    """What the parts of the work share.

    Attributes:
      networks: name -> Network; "model" is the one that is sampled.
      max_length: longer pairs (prompt and the longer answer, in tokens) are left out.
      failures: reasons of failure that remained, with their number.
    """

    options: PairOptions
    networks: Networks
    folder: Path
    seed: int
    max_length: int
    counts: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    say: Callable[[str], None] = print
    check: Callable[[], None] = lambda: None

    def ask(self, items: dict[str, Item], ask: Any, ledger: Ledger, what: str, batch: int) -> Replies:
        """`ask_all`, counted."""
        patience = Patience(self.options.tries)
        found = ask_all(items, ask, ledger, what=what, batch=batch, patience=patience, say=self.say, check=self.check)
        self.counts[f"{what.replace(' ', '_')}_asked"] += found.asked
        self.counts[f"{what.replace(' ', '_')}_failed_asks"] += found.failed_asks
        self.failures.update(why for key, why in found.failures.items() if key in items)
        return found


@dataclass(frozen=True)
class Pair:
    """A pair before the filters."""

    question: Question
    chosen: Candidate
    rejected: Candidate
    scores: tuple[float, float]

    @property
    def margin(self) -> float:
        """How much better the chosen one is."""
        return self.scores[0] - self.scores[1]


def item_of(question: Question, answer: str) -> Item:
    """An answer to a question, as judges are asked about it."""
    return Item(question.prompt, answer, question.row)


def judged(judge: Judge, items: Sequence[Item], shop: Workshop, what: str) -> dict[str, float]:
    """Item key (all columns) -> score, where every member of the judge gave one."""
    return score_all(judge, items, shop.networks, shop.folder, shop.ask, what).values
