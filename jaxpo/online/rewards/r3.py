"""The regularised relevance reward (R^3): relevance, length and repetition, by the type of the question."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.texts import Text
from jaxpo.errors import ConfigError, JaxpoError
from jaxpo.judges.asking import Ask, Item, Reply
from jaxpo.judges.base import Judge, Networks, score_reply
from jaxpo.judges.encoders import Encode, Encoder, WordEncoder, words
from jaxpo.judges.questions import CONSTRAINED, OPEN
from jaxpo.online.rewards.base import failure

CUT = r"\n\s*(?:#+\s*)?(?:human|user|assistant|system|instruction|response)\s*:|[-=_*#~]{10,}"
"""Where an answer goes on with somebody else's turn, or with a long line that separates."""


def length_incentive(text: str) -> float:
    """`LI = words / 100`; words are runs of word characters or of punctuation."""
    return len(words(text)) / 100.0


def repetition_penalty(text: str) -> float:
    """`RP = distinct word trigrams / all trigrams`; 1 of fewer than three words. Of n equal words it is 1 / (n - 2)."""
    own = words(text)
    every = list(zip(own, own[1:], own[2:], strict=False))
    return len(set(every)) / len(every) if every else 1.0


@dataclass(frozen=True)
class R3Reward(Judge):
    """A product of factors that can be read off, so that none of them can be had at the cost of the others.

        open:        R = rel(prompt, answer) LI(answer) RP(answer)
        constrained: R = F(rel(reference, answer)) RP(answer),    F(v) = v / 3.5 (longest / 100)

    `rel(a, b) = e(a) . e(b)`, the dot product of an encoder's means; it is not a cosine. Factors that are switched off
    are 1.

    Attributes:
      label: the name in metrics.
      encoder: `WordEncoder()`, `FunctionEncoder("file.py:f")` or `NetworkEncoder(STAGE)`.
      query_type: the column with a question's type, "open" or "constrained"; `jaxpo data construct r3` labels it.
      reference: the column with a reference answer, which constrained questions need.
      relevance, length, repetition: the factors.
      branches: constrained questions are compared with their reference; else all are taken for open ones.
      best: relevance that F makes the largest value of; 3.5 is Contriever's.
      longest: words whose LI that value is.
      cut_at: a regular expression; an answer is scored up to where it first matches. "" = all of it.

    Reference: Kim and Seo 2024, arXiv:2402.03469.
    """

    label: str = "r3"
    encoder: Any = field(default_factory=WordEncoder)
    query_type: str = "query_type"
    reference: str = "reference"
    relevance: bool = True
    length: bool = True
    repetition: bool = True
    branches: bool = True
    best: float = 3.5
    longest: int = 512
    cut_at: str = CUT

    NAME: ClassVar[str] = "r3"
    BATCH: ClassVar[int] = 256

    def check(self, rows: Sequence[Row]) -> None:
        if not isinstance(self.encoder, Encoder):
            raise ConfigError(f"encoder is {self.encoder!r}; give one of jaxpo.judges.encoders.")
        self.encoder.check()
        for name in ("best", "longest"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be more than 0.")
        if not (self.relevance or self.length or self.repetition):
            raise ConfigError("relevance, length and repetition are all off, so that every answer would be worth 1.")
        try:
            re.compile(self.cut_at)
        except re.error as error:
            raise ConfigError(f"cut_at {self.cut_at!r} is no regular expression: {error}.") from error
        for row in rows:
            self._check_row(row)

    def _check_row(self, row: Row) -> None:
        if not self.branches:
            return
        kind = row.data.get(self.query_type)
        if kind not in (OPEN, CONSTRAINED):
            raise row.error(
                f"the question's type is {kind!r}, not {OPEN!r} or {CONSTRAINED!r}.",
                field=self.query_type,
                remedy="Label the rows (`jaxpo data construct r3`), or give branches=False.",
            )
        reference = row.data.get(self.reference)
        if kind == CONSTRAINED and self.relevance and not (isinstance(reference, str) and reference.strip()):
            raise row.error(
                "a constrained question is answered by comparison with a reference, and there is none.",
                field=self.reference,
                remedy='Give the text of a good answer, or label the question "open".',
            )

    def columns(self) -> tuple[str, ...]:
        return (self.query_type, self.reference) if self.branches else ()

    def identity(self, networks: Networks) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in ("label", "encoder")}
        return {"judge": self.NAME, **own, "encoder": self.encoder.identity(networks)}

    def models(self) -> tuple[str, ...]:
        return self.encoder.models() if isinstance(self.encoder, Encoder) else ()

    def open(self, networks: Networks) -> Ask:
        encode: Encode = self.encoder.open(networks)

        def ask(items: Sequence[Item]) -> list[Reply]:
            try:
                return [score_reply(value) for value in self.scores(items, encode)]
            except JaxpoError:
                raise
            except Exception as error:
                return [failure(error)] * len(items)

        return ask

    def scores(self, items: Sequence[Item], encode: Encode) -> np.ndarray:
        """`[n]` rewards."""
        answers = [self.cut(item.answer) for item in items]
        constrained = np.asarray([self._constrained(item.row.data) for item in items])
        found = np.ones(len(items))
        if self.relevance:
            about = [
                str(item.row.data[self.reference]) if narrow else plain(item.prompt)
                for item, narrow in zip(items, constrained, strict=True)
            ]
            relevance = np.sum(encode(about) * encode(answers), axis=1)
            found = np.where(constrained, relevance / self.best * (self.longest / 100), relevance)
        if self.length:
            found = found * np.where(constrained, 1.0, [length_incentive(answer) for answer in answers])
        if self.repetition:
            found = found * np.asarray([repetition_penalty(answer) for answer in answers])
        return found

    def _constrained(self, data: Mapping[str, Any]) -> bool:
        return self.branches and data[self.query_type] == CONSTRAINED

    def cut(self, answer: str) -> str:
        """An answer as it is scored."""
        found = re.search(self.cut_at, answer, re.IGNORECASE) if self.cut_at else None
        return answer if found is None else answer[: found.start()]


def plain(prompt: Text) -> str:
    """What is asked: a string, or the last turn of a conversation."""
    return prompt if isinstance(prompt, str) else str(prompt[-1]["content"])
