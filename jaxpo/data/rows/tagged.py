"""Rows of texts whose words have classes: lists of words with their tags, or texts with spans of characters.

A tag is a name, or a number: a place among the classes that the method is given. Words whose tag is null or -100 have
none, and nothing is learnt of them. The words of a span are `B-LABEL` and `I-LABEL`, where the method's classes are not
named so `LABEL`; all others `O`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.texts import string

TAGGED = ("tagged", "tagged_text")
"""The dataset types of this room."""
BEGINS, GOES_ON, OUTSIDE = "B-", "I-", "O"
"""What names of classes begin with whose words are the first and the further ones of an entity; that of all others."""
UNTAGGED = -100
_TAGS = ("tags", "ner_tags", "labels")
_WORD = re.compile(r"\w+|[^\w\s]")
_SPAN = 'Give [{"start": 0, "end": 4, "label": "NAME"}, ...] in characters of the text, the end exclusive.'


@dataclass(frozen=True)
class Word:
    """Characters `start` to `end` (exclusive) of a text, and their class by name or number; None = it has none."""

    start: int
    end: int
    tag: str | int | None = None


def canonical_tagged(data: dict[str, Any]) -> dict[str, Any]:
    """The columns of other libraries by ours: `tokens` are the words, `ner_tags` or `labels` their tags.

    Beside prompts and messages they are columns of other rows, which rewards may read; so are `labels` beside ids.
    """
    name = _name_of_words(data)
    tags = next((name for name in _TAGS if name in data), None)
    if data.keys() & {"prompt", "messages"} or (tags == "labels" and "input_ids" in data):
        return data
    if name is None or tags is None:
        return data
    return {{name: "words", tags: "tags"}.get(column, column): value for column, value in data.items()}


def canonical_words(data: Mapping[str, Any]) -> list[Any] | None:
    """The words of a row, whatever their column is called; None where it has none."""
    name = _name_of_words(data)
    return None if name is None else data[name]


def _name_of_words(data: Mapping[str, Any]) -> str | None:
    for name in ("words", "tokens"):
        if name in data and isinstance(data[name], list):
            return name
    return None


def in_order(tags: Iterable[str | int]) -> tuple[str, ...]:
    """The names of classes, `O` first, B-X before I-X; of numbers all up to the largest."""
    given = set(tags)
    names = {tag for tag in given if isinstance(tag, str)}
    names |= {str(i) for i in range(1 + max((tag for tag in given if isinstance(tag, int)), default=-1))}
    return tuple(sorted(names, key=lambda tag: (tag != OUTSIDE, _bare(tag), tag)))


def _bare(tag: str) -> str:
    return tag.removeprefix(BEGINS).removeprefix(GOES_ON)


def marks_entities(classes: Sequence[str]) -> bool:
    """Whether the names of classes say which words begin an entity and which go on with it."""
    return any(name.startswith((BEGINS, GOES_ON)) for name in classes)


def tagged_text(row: Row) -> tuple[str, tuple[Word, ...]]:
    """The text of a row and its words in their order.

    Raises:
      DataError: as many tags as words are not there, a word is blank, a span is none; names the field. EmptyRow where
        there is no word, or none with a class.
    """
    text, words = _listed(row) if "words" in row.data else _spanned(row)
    if not words:
        raise row.empty("there is no word.", field="words" if "words" in row.data else "text")
    if all(word.tag is None for word in words):
        raise row.empty("no word has a class.", field="tags" if "tags" in row.data else "spans")
    return text, words


def words_of(text: str) -> tuple[Word, ...]:
    """The words of a text, and its other characters one by one, but for white space."""
    return tuple(Word(*found.span()) for found in _WORD.finditer(text))


def joined(row: Row, words: Sequence[Any]) -> tuple[str, tuple[Word, ...]]:
    """Words with a space between any two, as a text, and where they lie in it."""
    found, at = [], 0
    for k, word in enumerate(words):
        if not isinstance(word, str) or not word.strip():
            raise row.error(
                f"word {k} is {word!r}, which says nothing.", field="words", remedy="Remove it, and its tag."
            )
        found.append(Word(at, at + len(word)))
        at += len(word) + 1
    return " ".join(words), tuple(found)


def _listed(row: Row) -> tuple[str, tuple[Word, ...]]:
    words, tags = row.data["words"], row.data["tags"]
    for name, value in (("words", words), ("tags", tags)):
        if not isinstance(value, list):
            raise row.error(f"expected a list, found {type(value).__name__}.", field=name, remedy="One for each word.")
    if len(words) != len(tags):
        raise row.error(
            f"{len(words)} words but {len(tags)} tags.",
            field="tags",
            remedy="Give one per word, null where it has none.",
        )
    text, found = joined(row, words)
    return text, tuple(Word(word.start, word.end, _tag(row, tag)) for word, tag in zip(found, tags, strict=True))


def _tag(row: Row, tag: Any) -> str | int | None:
    if tag is None or (type(tag) is int and tag == UNTAGGED):
        return None
    if (isinstance(tag, str) and tag) or (type(tag) is int and tag >= 0):
        return tag
    remedy = f"Give a name, a number from 0, or null (or {UNTAGGED}) where the word has none."
    raise row.error(f"the tag {tag!r} is no class.", field="tags", remedy=remedy)


def _spanned(row: Row) -> tuple[str, tuple[Word, ...]]:
    """Words that hold a character of a span are `B-LABEL` and `I-LABEL`, all others `O`."""
    text, spans = string(row, "text", row.data["text"]), row.data["spans"]
    if not isinstance(spans, list):
        raise row.error(f"expected a list, found {type(spans).__name__}.", field="spans", remedy=_SPAN)
    marked = sorted(_span(row, k, span, len(text)) for k, span in enumerate(spans))
    for (_, end, first, _), (start, _, second, _) in itertools.pairwise(marked):
        if start < end:
            which = f"spans {min(first, second)} and {max(first, second)} overlap."
            raise row.error(which, field="spans", remedy="A word has one class.")
    words, begun = [], set()
    for word in words_of(text):
        tag = OUTSIDE
        for start, end, k, label in marked:
            if start < word.end and word.start < end:
                tag = f"{GOES_ON if k in begun else BEGINS}{label}"
                begun.add(k)
                break
        words.append(Word(word.start, word.end, tag))
    if lost := [k for _, _, k, _ in marked if k not in begun]:
        raise row.error(f"span {lost[0]} holds no word of its own.", field="spans", remedy="Mark a word, or remove it.")
    return text, tuple(words)


def _span(row: Row, k: int, span: Any, length: int) -> tuple[int, int, int, str]:
    """Start, end, place in the list, label."""
    if isinstance(span, Mapping):
        span = [span.get("start"), span.get("end"), span.get("label")]
    whole = isinstance(span, list) and len(span) == 3 and all(type(x) is int for x in span[:2])
    if not whole or not isinstance(span[2], str) or not span[2]:
        raise row.error(f"span {k} is {span!r}, not [start, end, label].", field="spans", remedy=_SPAN)
    start, end, label = span
    if not 0 <= start < end <= length:
        raise row.error(f"span {k}, {span}, is empty or reaches beyond the text.", field="spans", remedy=_SPAN)
    return start, end, k, label
