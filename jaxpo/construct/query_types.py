"""The types of questions that R^3 tells apart: those with many good answers, and those with one that is short."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jaxpo.config.places import OtherFile
from jaxpo.construct.base import Construction, Tools
from jaxpo.data.rows.formats import Row, read_rows
from jaxpo.errors import ConfigError, DataError
from jaxpo.judges.asking import Item
from jaxpo.judges.base import Judge
from jaxpo.judges.encoders import words
from jaxpo.judges.endpoint import ChatJudge, Endpoint, plain
from jaxpo.judges.function import FunctionJudge
from jaxpo.judges.named import is_address
from jaxpo.judges.questions import CONSTRAINED, OPEN, Question, read_questions

TYPE = "query_type"
RUBRIC = """You sort questions for an assistant. A question is constrained if a good answer is determined by it, so \
that there is little freedom in what to say and how long it is: a fact, a number, a choice, a translation, a short \
transformation of a given text. It is open-ended if many different answers would be good, and more detail helps. Only \
the question counts; there may be no answer below it. Write one sentence of reasoning, then a last line of exactly \
this form, with {high} for a constrained question and {low} for an open-ended one:
Score: NUMBER"""


@dataclass(frozen=True)
class R3(Construction):
    """Label every prompt as an open or a constrained question, for the regularised relevance reward.

    Attributes:
      by: a "judge" labels them; "examples", a classifier of words that learns from labelled rows; or "random".
      judge: the address of a chat endpoint, or module:function or file.py:function, f(prompt, answer, row) -> 1 for a
        constrained question, 0 for an open one.
      judge_model, judge_key: the endpoint's model, and the environment variable with its key.
      examples: file of rows with a prompt and a query_type.
      share: of constrained questions, where they are random.
    """

    by: Literal["judge", "examples", "random"] = "judge"
    judge: str = ""
    judge_model: str = ""
    judge_key: str = ""
    examples: OtherFile = ""
    share: float = 0.5

    NAME = "r3"
    READS = "prompts, with a completion or a chosen response as the reference"
    WRITES = "prompt, query_type, reference where there is one"

    def problems(self) -> list[str]:
        found = []
        if self.by == "judge" and not self.judge:
            found.append("--judge is missing; give the address of a chat endpoint or a function, or --by examples.")
        if self.by == "examples" and not self.examples:
            found.append("--examples is missing; give a file of rows with a prompt and a query_type.")
        if not 0 <= self.share <= 1:
            found.append(f"--share is {self.share} but must be a share.")
        return found

    def construct(self, rows: Sequence[Row], tools: Tools) -> Iterator[dict[str, Any]]:
        questions = read_questions(rows)
        kinds = {"judge": self._judged, "examples": self._like_examples, "random": self._drawn}
        for question, kind in zip(questions, kinds[self.by](questions, tools), strict=True):
            if kind is None:
                tools.count("left_out_without_a_label")
                continue
            tools.count(kind)
            given = question.given.get("completion", question.given.get("chosen"))
            reference = {} if given is None else {"reference": given}
            yield {**question.row.data, "prompt": question.prompt, TYPE: kind, **reference}

    def _judged(self, questions: Sequence[Question], tools: Tools) -> list[str | None]:
        items = [Item(question.prompt, "", question.row) for question in questions]
        found = tools.judged(self._judge(), items)
        scores = [found.get(item.key(None)) for item in items]
        return [None if score is None else CONSTRAINED if score > 0.5 else OPEN for score in scores]

    def _judge(self) -> Judge:
        if is_address(self.judge):
            return ChatJudge(Endpoint(self.judge, self.judge_model, self.judge_key), RUBRIC, 0.0, 1.0)
        return FunctionJudge(self.judge)

    def _like_examples(self, questions: Sequence[Question], tools: Tools) -> list[str | None]:
        classify = WordClassifier.of(list(read_rows([self.examples])))
        return [classify.kind(plain(question.prompt)) for question in questions]

    def _drawn(self, questions: Sequence[Question], tools: Tools) -> list[str | None]:
        drawn = np.random.default_rng(tools.seed).random(len(questions)) < self.share
        return [CONSTRAINED if one else OPEN for one in drawn]


@dataclass(frozen=True)
class WordClassifier:
    """Naive Bayes on the words of a question.

        log-odds = log n_c / n_o + sum_w log (c_w + 1) / (C + V) - log (o_w + 1) / (O + V)

    Attributes:
      prior: log-odds of a constrained question among the examples.
      odds: of every word that they have.
    """

    prior: float
    odds: dict[str, float]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> WordClassifier:
        """From labelled rows.

        Raises:
          DataError: a row without a type; ConfigError: none of one of the two.
        """
        counts: dict[str, Counter[str]] = {OPEN: Counter(), CONSTRAINED: Counter()}
        seen: Counter[str] = Counter()
        for question in read_questions(rows):
            kind = question.row.data.get(TYPE)
            if kind not in counts:
                raise DataError(
                    f"is {kind!r}, not {OPEN!r} or {CONSTRAINED!r}.",
                    file=question.row.file,
                    row=question.row.number,
                    field=TYPE,
                    remedy="Label the example.",
                )
            seen[kind] += 1
            counts[kind].update(words(plain(question.prompt).lower()))
        if min(seen[OPEN], seen[CONSTRAINED]) == 0:
            raise ConfigError(f"--examples: {seen[OPEN]} open and {seen[CONSTRAINED]} constrained; give some of both.")
        known = set(counts[OPEN]) | set(counts[CONSTRAINED])
        sizes = {kind: sum(own.values()) + len(known) for kind, own in counts.items()}
        odds = {
            word: math.log((counts[CONSTRAINED][word] + 1) / sizes[CONSTRAINED])
            - math.log((counts[OPEN][word] + 1) / sizes[OPEN])
            for word in sorted(known)
        }
        return cls(math.log(seen[CONSTRAINED] / seen[OPEN]), odds)

    def kind(self, text: str) -> str:
        """The likelier type; words that no example had say nothing."""
        total = self.prior + sum(self.odds.get(word, 0.0) for word in words(text.lower()))
        return CONSTRAINED if total > 0 else OPEN
