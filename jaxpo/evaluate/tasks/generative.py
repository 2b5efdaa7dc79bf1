"""Tasks whose answers are generated and are right or wrong: their settings, and pass@k of several tries."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from jaxpo.evaluate.pass_at_k import pass_at_k
from jaxpo.evaluate.tasks.base import Ask, E, Question, Reader, Task
from jaxpo.evaluate.tasks.reading import Score
from jaxpo.sampling.prompts import Prompt
from jaxpo.sampling.sampler import Sampler


@dataclass(frozen=True)
class Generative(Task[E]):
    """Base of tasks with one prompt per example and answers that are checked.

    Attributes:
      max_new_tokens: per answer; a longer one is checked as far as it got.
      samples: answers per prompt.
      k: pass@k is given for these; each at most `samples`.
      temperature: 0 = greedy, with one sample.
      top_p, top_k, min_p: filters, see `Sampler`.
      seed: of the draws.
    """

    max_new_tokens: int = 512
    samples: int = 1
    k: tuple[int, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int = 0

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.max_new_tokens < 1:
            yield f"{self.NAME}.max_new_tokens: {self.max_new_tokens} must be at least 1."
        if self.samples < 1:
            yield f"{self.NAME}.samples: {self.samples} must be at least 1."
        if self.samples > 1 and self.temperature == 0:
            yield f"{self.NAME}.samples: {self.samples} greedy answers are all the same; set --temperature."
        for k in self.k:
            if not 1 <= k <= self.samples:
                yield f"{self.NAME}.k: pass@{k} needs 1 <= k <= samples, which is {self.samples}."

    @abstractmethod
    def prompt(self, example: E) -> Prompt:
        """A text to continue, or a conversation to answer."""

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings that end an answer."""
        return ()

    def where(self, example: E) -> str:
        """Where an example stands, as `Ask.where`; nothing where it was made."""
        return ""

    def ask(self, example: E, reader: Reader) -> Ask:
        sampler = Sampler(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, min_p=self.min_p)
        question = Question(self.prompt(example), self.max_new_tokens, self.stop, sampler, self.samples, self.seed)
        return Ask(questions=(question,), where=self.where(example))

    def graded(self, name: str, right: Sequence[bool]) -> dict[str, float]:
        """The values of one example: the share of its answers that are right, and pass@k of them."""
        found = {f"{name}_pass@{k}": pass_at_k(len(right), sum(right), k) for k in self.k}
        return {name: sum(right) / len(right), **found}

    def graded_scores(self, name: str, about: str) -> Mapping[str, Score]:
        """What `graded` gives, as `scores` declares it."""
        found = {f"{name}_pass@{k}": self.of_tries(f"{about}, of {k} tries at least one") for k in self.k}
        return {name: self.of_tries(about), **found}

    def of_tries(self, about: str) -> Score:
        """A score that is the share of an example's answers of which something holds."""
        return Score(about, binary=self.samples == 1, shares=True)
