"""Instructions that a program can check, and generators that make one which a given response meets or violates."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Instruction:
    """A sentence to add to a prompt, and the test of a response.

    Attributes:
      kind: name in `GENERATORS`.
      text: the sentence.
      holds: whether a response meets it.
    """

    kind: str
    text: str
    holds: Callable[[str], bool]


Generator = Callable[[str, bool, np.random.Generator], Instruction | None]


def words(text: str) -> list[str]:
    """Runs of letters, digits and apostrophes, in lower case."""
    return re.findall(r"[\w']+", text.lower())


def sentences(text: str) -> int:
    """Stretches of text that end with . ! ? or the text's end."""
    return len([s for s in re.split(r"[.!?]+(?:\s+|$)", text) if s.strip()])


def paragraphs(text: str) -> int:
    """Stretches of text between empty lines."""
    return len([p for p in re.split(r"\n\s*\n", text) if p.strip()])


def bullets(text: str) -> int:
    """Lines that start with - or *."""
    return len(re.findall(r"^\s*[-*]\s+\S", text, flags=re.MULTILINE))


def counted(n: int, noun: str) -> str:
    """1 word, 2 words."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def at_least(kind: str, verb: str, noun: str, measure: Callable[[str], int], lowest: int = 2) -> Generator:
    """A lower bound, at or just below what the response has, or above it; bounds that any response meets are no use."""

    def make(response: str, met: bool, rng: np.random.Generator) -> Instruction | None:
        has = measure(response)
        low = has - int(rng.integers(0, has // 2 + 1)) if met else has + 1 + int(rng.integers(0, has // 2 + 1))
        if low < lowest:
            return None
        return Instruction(kind, f"{verb} at least {counted(low, noun)}.", lambda r: measure(r) >= low)

    return make


def at_most(kind: str, verb: str, noun: str, measure: Callable[[str], int]) -> Generator:
    """An upper bound, at or just above what the response has, or below it."""

    def make(response: str, met: bool, rng: np.random.Generator) -> Instruction | None:
        has = measure(response)
        high = has + int(rng.integers(0, has // 2 + 1)) if met else has - 1 - int(rng.integers(0, has // 2 + 1))
        if high < 1:
            return None  # nothing but an empty response would meet it
        return Instruction(kind, f"{verb} at most {counted(high, noun)}.", lambda r: measure(r) <= high)

    return make


def keyword(kind: str, text: str, *, wanted: bool) -> Generator:
    """A word that must occur, or must not; taken from the response, or from `COMMON` words that it lacks."""

    def make(response: str, met: bool, rng: np.random.Generator) -> Instruction | None:
        present = sorted({w for w in words(response) if len(w) >= 4})
        choices = present if met == wanted else sorted(set(COMMON) - set(words(response)))
        if not choices:
            return None
        word = str(rng.choice(choices))
        return Instruction(kind, text.format(word=word), lambda r: (word in words(r)) == wanted)

    return make


def either(kind: str, yes: str, no: str, test: Callable[[str], bool]) -> Generator:
    """A property of the whole response, asked for or forbidden."""

    def make(response: str, met: bool, rng: np.random.Generator) -> Instruction | None:
        asked = test(response) == met
        return Instruction(kind, yes if asked else no, lambda r: test(r) == asked)

    return make


def edge(kind: str, text: str, index: int) -> Generator:
    """The first or last word."""

    def make(response: str, met: bool, rng: np.random.Generator) -> Instruction | None:
        said = words(response)
        word = said[index] if said and met else str(rng.choice([w for w in COMMON if not said or w != said[index]]))
        if not said and met:
            return None
        return Instruction(kind, text.format(word=word), lambda r: bool(words(r)) and words(r)[index] == word)

    return make


COMMON = (
    "however", "because", "example", "first", "finally", "important", "people", "simple", "question", "answer",
    "water", "world", "today", "money", "music", "number", "system", "always", "never", "perhaps",
)  # fmt: skip
"""Words for instructions about a word that the response does not have."""

GENERATORS: dict[str, Generator] = {
    "min_words": at_least("min_words", "Use", "word", lambda t: len(words(t))),
    "max_words": at_most("max_words", "Use", "word", lambda t: len(words(t))),
    "min_sentences": at_least("min_sentences", "Write", "sentence", sentences),
    "max_sentences": at_most("max_sentences", "Write", "sentence", sentences),
    "min_paragraphs": at_least("min_paragraphs", "Write", "paragraph", paragraphs),
    "min_bullets": at_least("min_bullets", "List", "bullet point", bullets, lowest=1),
    "include": keyword("include", 'Include the word "{word}".', wanted=True),
    "exclude": keyword("exclude", 'Do not use the word "{word}".', wanted=False),
    "first_word": edge("first_word", 'Begin with the word "{word}".', 0),
    "last_word": edge("last_word", 'End with the word "{word}".', -1),
    "commas": either("commas", "Use a comma.", "Do not use commas.", lambda t: "," in t),
    "question_mark": either("question_mark", "Ask a question.", "Do not ask questions.", lambda t: "?" in t),
    "exclamation": either(
        "exclamation", "Use an exclamation mark.", "Do not use exclamation marks.", lambda t: "!" in t
    ),
    "digits": either("digits", "Use digits.", "Do not use digits.", lambda t: any(c.isdigit() for c in t)),
    "lower_case": either(
        "lower_case", "Write in lower case only.", "Use at least one capital letter.", lambda t: t == t.lower()
    ),
    "full_stop": either(
        "full_stop", "End with a full stop.", "Do not end with a full stop.", lambda t: t.rstrip().endswith(".")
    ),
}
"""Kind -> generator `(response, met, rng) -> Instruction or None`: whether the response meets it is `met`."""
