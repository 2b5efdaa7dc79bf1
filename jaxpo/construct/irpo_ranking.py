"""IRPO's lists: right answers, suggestions and random negatives as the items of one response, shuffled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jaxpo.construct.base import Construction, Tools
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.texts import Text, string, text_of_column


def graded_items(
    truths: Sequence[str],
    suggestions: Sequence[str],
    negatives: Sequence[str],
    n: int,
    *,
    max_truths: int = 3,
    max_suggestions: int = 5,
    truth_grade: int = 2,
) -> list[tuple[str, int]]:
    """Up to n different items with their relevance, sorted: truths, suggestions (1), negatives (0)."""
    found: dict[str, int] = {}
    for texts, most, grade in ((truths, max_truths, truth_grade), (suggestions, max_suggestions, 1), (negatives, n, 0)):
        new = [text for text in dict.fromkeys(texts) if text not in found]
        found |= dict.fromkeys(new[: min(most, n - len(found))], grade)
    return list(found.items())


def shuffled(items: Sequence[tuple[str, int]], rng: np.random.Generator) -> tuple[list[str], list[int]]:
    """Items and grades in random order, so that the position says nothing about the grade."""
    order = rng.permutation(len(items))
    return [items[k][0] for k in order], [items[k][1] for k in order]


@dataclass(frozen=True)
class IRPORanking(Construction):
    """Lists of n items inside one response, a few of them relevant.

    Attributes:
      n: items of a list (20 for recommendation, 10 for questions).
      max_truths, max_suggestions: how many of a row's right answers and suggestions are used.
      truth_grade: relevance of a right answer (2 for recommendation, 1 for questions).
      negatives: "random" takes the row's own `negatives` and then other rows' right answers; "sampled" takes what
        --model answers to the prompt, one line each, before these.
      temperature, top_k, max_new_tokens: of the sampled negatives.
    """

    n: int = 20
    max_truths: int = 3
    max_suggestions: int = 5
    truth_grade: int = 2
    negatives: Literal["random", "sampled"] = "random"
    temperature: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 32

    NAME = "irpo_ranking"
    READS = "prompt, ground_truth: [text] [, suggested: [text]] [, negatives: [text]]"
    WRITES = "prompt, items, relevance"

    def problems(self) -> list[str]:
        wrong = self.n < 2 or self.truth_grade < 1 or self.max_truths < 1
        return ["--n must be at least 2, --truth-grade and --max-truths at least 1."] if wrong else []

    def construct(self, rows: Sequence[Row], tools: Tools) -> Iterator[dict[str, Any]]:
        prompts = [text_of_column(row, "prompt") for row in rows]
        truths = [texts(row, "ground_truth") for row in rows]
        pool = sorted({text for row in truths for text in row})
        sampled = self._sampled(prompts, tools)
        for number, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
            rng = np.random.default_rng((tools.seed, number))
            own = set(truths[number])
            others = [text for text in pool if text not in own]
            negatives = [*sampled[number], *texts(row, "negatives", optional=True)]
            negatives += [others[k] for k in rng.permutation(len(others))]
            items = graded_items(
                truths[number],
                texts(row, "suggested", optional=True),
                [text for text in negatives if text not in own],
                self.n,
                max_truths=self.max_truths,
                max_suggestions=self.max_suggestions,
                truth_grade=self.truth_grade,
            )
            if not truths[number] or len(items) < 2:
                tools.count("dropped_nothing_to_rank")
                continue
            if len(items) < self.n:
                tools.count("lists_shorter_than_n")
            listed, relevance = shuffled(items, rng)
            yield {"prompt": prompt, "items": listed, "relevance": relevance}

    def _sampled(self, prompts: Sequence[Text], tools: Tools) -> list[list[str]]:
        if self.negatives == "random":
            return [[] for _ in prompts]
        drawn = tools.generate(
            prompts, self.n, temperature=self.temperature, top_k=self.top_k, max_new_tokens=self.max_new_tokens
        )
        return [[line for text in answers for line in text.strip().splitlines()[:1] if line] for answers in drawn]


def texts(row: Row, column: str, *, optional: bool = False) -> list[str]:
    """A column of one-line strings; DataError otherwise."""
    if column not in row.data and optional:
        return []
    value = row.data.get(column)
    if not isinstance(value, list):
        raise row.error(f"expected a list of strings in {column!r}.", field=column, remedy='Give ["...", "..."].')
    found = [string(row, column, text, empty_ok=False) for text in value]
    for text in found:
        if "\n" in text:
            raise row.error(f"the item {text[:30]!r} has a line break, which separates items.", field=column)
    return found
