"""How well a model predicts texts: perplexity per token, and bits per byte."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from jaxpo.data.rows.formats import Row
from jaxpo.evaluate.perplexity import bits, nats
from jaxpo.evaluate.tasks import asking
from jaxpo.evaluate.tasks.base import Ask, Reader, Reply, Scored, Task
from jaxpo.evaluate.tasks.files import place, spaced, task_rows, text_in
from jaxpo.evaluate.tasks.reading import Score

LONGEST = 2048
"""Of pieces, where neither the setting nor a smaller model says otherwise."""


@dataclass(frozen=True)
class Texts(Task[Row]):
    """Base of the two: every token of every document is predicted once, as in training.

    Attributes:
      max_length: of pieces, in tokens; a piece knows nothing of the one before. None = 2,048, or what the model has.
    """

    NEEDS: ClassVar[str] = "a text file, or rows with a column `text`"

    max_length: int | None = None

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.max_length is not None and self.max_length < 2:
            yield f"{self.NAME}.max_length: {self.max_length} must be at least 2."

    def examples(self) -> list[Row]:
        rows = task_rows(self.NAME, self.source or "", {"text": "a document"}, self.NEEDS)
        for row in rows:
            text_in(row, "text")
        return spaced(rows, self.limit)

    def ask(self, example: Row, reader: Reader) -> Ask:
        length = self.max_length or min(LONGEST, reader.context)
        return Ask(asking.documents(reader.tokenizer, example.data["text"], length), where=place(example))

    @property
    def format(self) -> str:
        return f"documents of at most {self.max_length or LONGEST} tokens"


@dataclass(frozen=True)
class Perplexity(Texts):
    """exp(-sum log p / tokens), the end token included; documents are the units of the bootstrap."""

    NAME: ClassVar[str] = "perplexity"
    ABOUT: ClassVar[str] = "exp of the mean loss per token of a text"

    def scores(self) -> Mapping[str, Score]:
        return {"perplexity": Score("exp of the loss per token", higher=False, exp=True)}

    def score(self, example: Row, reply: Reply) -> Scored:
        cost, tokens = nats(reply.logps), sum(len(x) - 1 for x in reply.logps)
        return Scored({"perplexity": cost}, {"perplexity": tokens}, prompt=example.data["text"], worst=cost / tokens)


@dataclass(frozen=True)
class BitsPerByte(Texts):
    """-sum log2 p / UTF-8 bytes: comparable between tokenizers."""

    NAME: ClassVar[str] = "bits_per_byte"
    ABOUT: ClassVar[str] = "bits that the model needs per byte of a text"

    def scores(self) -> Mapping[str, Score]:
        return {"bits_per_byte": Score("bits per UTF-8 byte", higher=False)}

    def score(self, example: Row, reply: Reply) -> Scored:
        text = example.data["text"]
        cost, size = bits(reply.logps), len(text.encode())
        return Scored({"bits_per_byte": cost}, {"bits_per_byte": size}, prompt=text, worst=cost / size)
