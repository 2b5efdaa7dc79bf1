"""Puzzles of reasoning-gym (Stojanovski et al. 2025, arXiv 2505.24760): made by name, scored by their generator."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from jaxpo.errors import ConfigError, did_you_mean
from jaxpo.evaluate.tasks.base import Reply, Scored
from jaxpo.evaluate.tasks.files import spaced
from jaxpo.evaluate.tasks.generative import Generative
from jaxpo.evaluate.tasks.reading import Score
from jaxpo.sampling.prompts import Prompt

SCORE, SOLVED, ANSWERED = "score", "solved", "answered"
UNREADABLE = (ValueError, TypeError, AttributeError, ArithmeticError, LookupError)
"""What scorers raise at answers that are not of their form: `prime_factorization` at any word, say."""


@dataclass(frozen=True)
class Puzzle:
    """One puzzle: its number, the question, and the entry that its scorer takes."""

    number: int
    question: str
    entry: Mapping[str, Any]


@dataclass(frozen=True)
class ReasoningGym(Generative[Puzzle]):
    """`reasoning_gym:NAME`. An answer stands between <answer> and </answer>, the last pair counts; without it, 0.

    Attributes:
      size: puzzles.
      puzzle_seed: of the generator; a puzzle is a function of (name, config, puzzle_seed, number).
      config: the generator's own settings, as JSON: `{"min_terms": 3}`.
      wording: which of the package's system prompts asks for the tags.
      chat: whether the system prompt and the puzzle are a conversation; otherwise they are a text to go on from.
    """

    NAME: ClassVar[str] = "reasoning_gym"
    ABOUT: ClassVar[str] = "generated puzzles, scored by reasoning-gym; needs pip install 'jaxpo[reasoning]'"
    NEEDS: ClassVar[str] = "the name of a generator, such as chain_sum"
    SOURCE: ClassVar[str] = "GENERATOR"

    size: int = 100
    puzzle_seed: int = 0
    config: str = "{}"
    wording: str = "default"
    chat: bool = True

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.size < 1:
            yield f"{self.NAME}.size: {self.size} must be at least 1."
        try:
            if not isinstance(json.loads(self.config), dict):
                yield f"{self.NAME}.config: {self.config} must be a JSON object."
        except ValueError as error:
            yield f"{self.NAME}.config: {self.config} is no JSON: {error}."

    def examples(self) -> list[Puzzle]:
        prompts = _package().utils.SYSTEM_PROMPTS
        if self.wording not in prompts:
            raise ConfigError(f"{self.NAME}.wording: {self.wording!r} is none of {', '.join(prompts)}.")
        entries = (self._generator[i] for i in range(self.size))
        return spaced([Puzzle(i, str(x["question"]), x) for i, x in enumerate(entries)], self.limit)

    def prompt(self, example: Puzzle) -> Prompt:
        system = _package().utils.SYSTEM_PROMPTS[self.wording]
        if not self.chat:
            return f"{system}\n{example.question}\n"
        return [{"role": "system", "content": system}, {"role": "user", "content": example.question}]

    @property
    def format(self) -> str:
        return repr((_package().utils.SYSTEM_PROMPTS[self.wording], self.chat))

    @property
    def in_template(self) -> bool:
        return self.chat

    def scores(self) -> Mapping[str, Score]:
        return {
            SCORE: Score("what the generator's scorer gives, 0 to 1", shares=True),
            **self.graded_scores(SOLVED, "puzzles with the full score"),
            ANSWERED: self.of_tries("answers that stand between the tags and that the scorer can read"),
        }

    def score(self, example: Puzzle, reply: Reply) -> Scored:
        found = [self._grade(text, example) for text in reply.texts]
        points = [0.0 if one is None else one for one in found]
        return Scored(
            {
                SCORE: sum(points) / len(points),
                **self.graded(SOLVED, [x == 1 for x in points]),
                ANSWERED: sum(one is not None for one in found) / len(found),
            },
            prompt=example.question,
            answer=reply.texts[0],
            # Puzzles with many answers come with none.
            expected=str(example.entry.get("answer") or ""),
        )

    def _grade(self, text: str, example: Puzzle) -> float | None:
        """The scorer's number; None when there is no answer, or none that it can read."""
        answer = _package().utils.extract_answer(text)
        if answer is None:
            return None
        try:
            points = float(self._generator.score_answer(answer=answer, entry=example.entry))
        except UNREADABLE:
            return None
        if not 0 <= points <= 1:
            raise ConfigError(f"{self.NAME}:{self.source}: its scorer gave {points}, which is not from 0 to 1.")
        return points

    @cached_property
    def _generator(self) -> Any:
        factory = _package().factory
        name = self.source or ""
        if name not in factory.DATASETS:
            near = did_you_mean(name, factory.DATASETS)
            some = "" if near else f" Known: {', '.join(sorted(factory.DATASETS))}."
            raise ConfigError(f"--tasks {self.NAME}:{name}: reasoning-gym has no generator {name!r}.{near}{some}")
        settings = {"seed": self.puzzle_seed, "size": self.size, **json.loads(self.config)}
        try:
            return factory.create_dataset(name, **settings)
        except (TypeError, ValueError, AssertionError) as error:
            raise ConfigError(f"{self.NAME}.config: {name} does not take {self.config}: {error}.") from error


def _package() -> Any:
    """The package, with its factory and utilities imported.

    Raises:
      ConfigError: it is not installed.
    """
    try:
        import reasoning_gym
        import reasoning_gym.factory
        import reasoning_gym.utils
    except ImportError as error:
        raise ConfigError(
            f"--tasks reasoning_gym: needs {error.name}, which is not installed: pip install 'jaxpo[reasoning]'."
        ) from error
    return reasoning_gym
