"""The classes that a model of `token_classification` tells of the words of texts, and the entities they make."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jaxpo.construct.base import Construction, Tools
from jaxpo.construct.classes import text_of
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.tagged import BEGINS, GOES_ON, OUTSIDE, Word, canonical_words, joined, words_of

BLOCK = 1024
"""Texts that are read at once."""


@dataclass(frozen=True)
class Tag(Construction):
    """Rows with the class that a classifier of words (`token_classification`) takes each word for.

    Attributes:
      text: column of the text, in rows without words.
    """

    text: str = "text"

    NAME = "tag"
    READS = "words (or tokens), or text"
    WRITES = "the same rows with words, tags, shares (of the likeliest class) and, of texts, spans"

    def needed_networks(self) -> tuple[str, ...]:
        return ("reward",)

    def construct(self, rows: Sequence[Row], tools: Tools) -> Iterator[dict[str, Any]]:
        network = tools.network("reward")
        for first in range(0, len(rows), BLOCK):
            some = rows[first : first + BLOCK]
            read = [(row, *self._read(row)) for row in some]
            classes, found = network.word_classes(read)
            for (row, text, words), shares in zip(read, found, strict=True):
                likeliest = [None if each is None else int(each.argmax()) for each in shares]
                tools.count("words without a class, cut off or without a token", likeliest.count(None))
                tags = [None if i is None else classes[i] for i in likeliest]
                own = {"words": [text[word.start : word.end] for word in words], "tags": tags}
                own["shares"] = [None if each is None else round(float(each.max()), 4) for each in shares]
                spans = {} if canonical_words(row.data) is not None else {"spans": entities(text, words, tags)}
                yield {**row.data, **own, **spans}

    def _read(self, row: Row) -> tuple[str, tuple[Word, ...]]:
        listed = canonical_words(row.data)
        text, words = (joined(row, listed)) if listed is not None else _in_words(text_of(row, self.text))
        if not words:
            raise row.empty("there is no word.", field=self.text if listed is None else "words")
        return text, words


def entities(text: str, words: Sequence[Word], tags: Sequence[str | None]) -> list[dict[str, Any]]:
    """Words that belong together, as spans of characters: B-X with the I-X behind it, or neighbours of one class."""
    found: list[dict[str, Any]] = []
    before: str | None = None
    for word, tag in zip(words, tags, strict=True):
        label = None if tag in (None, OUTSIDE) else str(tag).removeprefix(BEGINS).removeprefix(GOES_ON)
        if label is not None and label == before and not str(tag).startswith(BEGINS):
            found[-1]["end"] = word.end
        elif label is not None:
            found.append({"start": word.start, "end": word.end, "label": label})
        before = label
    return [{**span, "text": text[span["start"] : span["end"]]} for span in found]


def _in_words(text: str) -> tuple[str, tuple[Word, ...]]:
    return text, words_of(text)
