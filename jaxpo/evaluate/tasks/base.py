"""What a task of `jaxpo eval` is: a value with settings that asks a model and scores what it says. Imports no jax.

    examples() -> ask(example, reader) -> [the model] -> score(example, reply) -> measure(all scored)

A task never meets the model. It says what of an example goes to it (`Ask`): token sequences whose log-probs it wants,
prompts that are to be answered, or both; the runner batches the asks of all examples.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import numpy as np

from jaxpo.evaluate.grid import Grid
from jaxpo.evaluate.intervals import Measurement
from jaxpo.evaluate.likelihood import log_likelihood, predicted
from jaxpo.evaluate.tasks.reading import Score
from jaxpo.sampling.prompts import Prompt
from jaxpo.sampling.request import Generation, said
from jaxpo.sampling.sampler import GREEDY, Sampler

if TYPE_CHECKING:
    from jaxpo.convert.reader import Reader as RewardReader
    from jaxpo.convert.retriever import Retriever
    from jaxpo.data.tokenizer.tokenizer import Tokenizer
    from jaxpo.data.tokens.examples import Segment
    from jaxpo.evaluate.picture import Picture

E = TypeVar("E")


@dataclass(frozen=True)
class Reader:
    """What a task may know of the model when it asks.

    Attributes:
      tokenizer: of the model.
      context: positions that the model has; an ask beyond it is refused before anything is computed.
      reward: how its rewards are read; None where it is no reward model.
      retriever: how it finds texts; None where it is no retriever.
    """

    tokenizer: Tokenizer
    context: int
    reward: RewardReader | None = None
    retriever: Retriever | None = None


@dataclass(frozen=True)
class Question:
    """A prompt to answer n times.

    Attributes:
      prompt: a text to continue as it is, or a conversation to answer in the chat template.
      max_new_tokens: per answer; a longer one is scored as far as it got.
      stop: strings that end an answer and are cut from it.
      sampler: greedy unless samples are wanted.
      n: answers.
      seed: of the draws.
    """

    prompt: Prompt
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    sampler: Sampler = GREEDY
    n: int = 1
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Search:
    """A query and the documents among which it looks.

    Attributes:
      query: its text.
      corpus: id -> text; queries that share the very same mapping look among documents that are embedded once.
    """

    query: str
    corpus: Mapping[str, str]


@dataclass(frozen=True)
class Ask:
    """What of one example goes to the model.

    Attributes:
      segments: token sequences; the log-prob of every token given the earlier ones comes back. `asking.pair` makes one
        of a prompt and its continuation, `asking.document` those of a text.
      questions: what is to be answered.
      rewarded: prompts with answers whose reward is wanted, as the method that trained the model reads them.
      searches: queries whose best documents are wanted.
      where: "FILE, row N", for messages about an ask that the model has no room for.
    """

    segments: tuple[Segment, ...] = ()
    questions: tuple[Question, ...] = ()
    rewarded: tuple[Segment, ...] = ()
    searches: tuple[Search, ...] = ()
    where: str = ""


@dataclass(frozen=True)
class Reply:
    """What came back, in the order of the ask.

    Attributes:
      ask: what was asked.
      logps: per segment float32 `[n]`, nats, 0 at the first token.
      answers: per question its n continuations; `text` is always set.
      rewards: float64, of `Ask.rewarded`.
      found: per search its best documents, id -> score.
    """

    ask: Ask = Ask()
    logps: tuple[np.ndarray, ...] = ()
    answers: tuple[tuple[Generation, ...], ...] = ()
    rewards: tuple[float, ...] = ()
    found: tuple[Mapping[str, float], ...] = ()

    @property
    def likelihoods(self) -> tuple[float, ...]:
        """Per segment sum log p over its supervised tokens, nats."""
        return tuple(log_likelihood(x, s) for x, s in zip(self.logps, self.ask.segments, strict=True))

    @property
    def lengths(self) -> tuple[int, ...]:
        """Per segment the number of tokens that `likelihoods` sums."""
        return tuple(map(predicted, self.ask.segments))

    @property
    def texts(self) -> tuple[str, ...]:
        """The answers of the only question."""
        (answers,) = self.answers
        return tuple(map(said, answers))


@dataclass(frozen=True)
class Scored:
    """What one example got.

    Attributes:
      values: score -> its number. An example may lack a score that others have.
      weights: score -> the weight of `values`, where the result is sum values / sum weights (bits and bytes, followed
        instructions and instructions); 1 where not given.
      groups: parts of the data that the example belongs to; each gives results of its own, `SCORE_GROUP`.
      prompt, answer, expected: for the report's worst examples; texts.
      worst: orders those, largest first; None = by the first score.
    """

    values: Mapping[str, float]
    weights: Mapping[str, float] = field(default_factory=dict)
    groups: tuple[str, ...] = ()
    prompt: str = ""
    answer: str = ""
    expected: str = ""
    worst: float | None = None


@dataclass(frozen=True)
class Task(ABC, Generic[E]):
    """Base of the tasks; the fields of a subclass are its settings, `--set NAME.FIELD=VALUE` on the command line.

    Attributes:
      NAME: on the command line and in results.
      ABOUT: one line for `jaxpo eval --list`.
      NEEDS: what SOURCE of `NAME:SOURCE` is, for messages; "" when there is none to give.
      SOURCE: a word for it.
      OPTIONAL: whether the source may be left out.
      source: what followed the name; None when nothing did.
      limit: use at most so many examples, evenly spaced.
    """

    NAME: ClassVar[str] = ""
    ABOUT: ClassVar[str] = ""
    NEEDS: ClassVar[str] = ""
    SOURCE: ClassVar[str] = "FILE"
    OPTIONAL: ClassVar[bool] = False

    source: str | None = None
    limit: int | None = None

    def problems(self) -> Iterator[str]:
        """What is wrong with the settings, each sentence naming the field; a subclass yields its own after these."""
        if self.NEEDS and not self.OPTIONAL and self.source is None:
            yield f"--tasks {self.NAME}: needs {self.NEEDS}; write {self.NAME}:{self.SOURCE}."
        if not self.NEEDS and self.source is not None:
            yield f"--tasks {self.NAME}:{self.source}: {self.NAME} takes no file; write {self.NAME}."
        if self.limit is not None and self.limit < 1:
            yield f"{self.NAME}.limit: {self.limit} must be at least 1."

    @abstractmethod
    def examples(self) -> list[E]:
        """All of them, checked, before the model is loaded.

        Raises:
          DataError: names file, row, field and remedy.
          ConfigError: a setting out of range, an extra that is not installed.
        """

    @abstractmethod
    def ask(self, example: E, reader: Reader) -> Ask:
        """What of an example goes to the model."""

    @abstractmethod
    def score(self, example: E, reply: Reply) -> Scored:
        """What an example got, from the reply to its ask."""

    @abstractmethod
    def scores(self) -> Mapping[str, Score]:
        """Every score that `score` may give, the most important first."""

    def grid(self, scored: Sequence[Scored]) -> Grid | None:
        """Results over two axes, shown as a table and as a heat map; None where there are no such axes."""
        return None

    def further(self, scored: Sequence[Any]) -> Mapping[str, Measurement]:
        """Results that are no ratio over single examples, with n and interval."""
        return {}

    def pictures(self, scored: Sequence[Any]) -> Sequence[Picture]:
        """What the report draws of the examples."""
        return ()

    def notes(self, scored: Sequence[Any]) -> Sequence[str]:
        """What a reader of the results must know, a sentence each."""
        return ()

    def files(self, scored: Sequence[Any]) -> Mapping[str, str]:
        """Further files of the evaluation, name -> text."""
        return {}

    @property
    def asks(self) -> bool:
        """Whether a model is asked at all; otherwise the files hold all answers, and the command needs no model."""
        return True

    @property
    def format(self) -> str:
        """The task's own wording of its prompts, which enters their hash; whatever changes prompts changes this."""
        return ""

    @property
    def in_template(self) -> bool:
        """Whether prompts are put into the chat template, whose text then enters their hash."""
        return False

    def settings(self) -> dict[str, Any]:
        """Fields and values, for the results' record."""
        return asdict(self)


@dataclass(frozen=True)
class Cell:
    """One result of a task.

    Attributes:
      name: of the result: `SCORE`, or `SCORE_GROUP`.
      score: key of `Scored.values`.
      how: how that is read.
      members: the examples that have it.
    """

    name: str
    score: str
    how: Score
    members: tuple[int, ...]

    def values(self, scored: Sequence[Scored]) -> np.ndarray:
        """Of its examples, `[n]`."""
        return np.asarray([scored[i].values[self.score] for i in self.members], np.float64)

    def weights(self, scored: Sequence[Scored]) -> np.ndarray:
        """Of its examples, `[n]`."""
        return np.asarray([scored[i].weights.get(self.score, 1.0) for i in self.members], np.float64)


def measure(scored: Sequence[Scored], scores: Mapping[str, Score]) -> dict[str, Measurement]:
    """Every result of a task with n and interval."""
    return {cell.name: cell.how.measure(cell.values(scored), cell.weights(scored)) for cell in cells(scored, scores)}


def cells(scored: Sequence[Scored], scores: Mapping[str, Score]) -> Iterator[Cell]:
    """Every result of a task, those of all examples first, then group by group."""
    for group in ("", *sorted({group for one in scored for group in one.groups}, key=_natural)):
        for name, how in scores.items():
            having = [i for i, x in enumerate(scored) if name in x.values and (not group or group in x.groups)]
            if having:
                yield Cell(f"{name}_{group}" if group else name, name, how, tuple(having))


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts `length_512` before `length_4096`."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
