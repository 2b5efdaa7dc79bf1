"""From documentation entries to training rows: documents, questions with answers, preference pairs. Deterministic."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from jaxpo.corpora.stdlib_docs_read import Entry
from jaxpo.data.cleaning.heldout import Seen, paragraphs

ANSWER_CHARACTERS = 320
SHORTEST_ANSWER = 16
REPEATED_CHARACTERS = 40
REJECTED_PER_TRAINING_ENTRY = 3

_SENTENCE_END = re.compile(r"(?<=[.!?:])\s")
_PUBLIC = re.compile(r"^[A-Za-z]\w*(\.[A-Za-z]\w*)*$")
_TEMPLATES = {
    "topic": ('What is "{name}" in Python?', 'Explain "{name}" in Python.', 'Python: tell me about "{name}".'),
    "module": ("What is the module {name} for?", "What does the module {name} do?", "Describe the module {name}."),
    "class": ("What is {name}?", "What is the class {name} for?", "Describe {name}."),
    "function": ("What does {name} do?", "Explain {name}.", "What is {name} for?"),
    "method": ("What does {name} do?", "Explain {name}.", "Describe the method {name}."),
}
Row = dict[str, object]


@dataclass(frozen=True)
class Text:
    """An entry with the paragraphs that are left of it.

    Attributes:
      whole: its first paragraph is still there, so it can answer a question about the entry.
    """

    entry: Entry
    paragraphs: tuple[str, ...]
    whole: bool

    @property
    def document(self) -> str:
        return "\n\n".join((*self.entry.headings, *self.paragraphs))


def _key(paragraph: str) -> str:
    return " ".join(paragraph.split())


def deduplicate(entries: Iterable[Entry], known: set[str]) -> tuple[list[Text], int]:
    """Drop longer paragraphs that occurred before (`known` is extended) and entries left empty; also how many."""
    texts, dropped = [], 0
    for entry in entries:
        parts = paragraphs(entry.doc)
        kept = []
        for part in parts:
            key = _key(part)
            if len(key) > REPEATED_CHARACTERS and key in known:
                dropped += 1
                continue
            known.add(key)
            kept.append(part)
        if kept:
            texts.append(Text(entry, tuple(kept), kept[0] == parts[0]))
    return texts, dropped


def purge(texts: Iterable[Text], training: Seen) -> tuple[list[Text], int]:
    """Drop held-out paragraphs and headings that share an 8-word sequence or a long line with training text.

    Returns:
      What is left, and how many paragraphs were dropped.
    """
    left, dropped = [], 0
    for text in texts:
        kept = tuple(p for p in text.paragraphs if not training.shares(p))
        dropped += len(text.paragraphs) - len(kept)
        headings = tuple(h for h in text.entry.headings if not training.shares(h))
        if kept:
            entry = replace(text.entry, headings=headings)
            left.append(Text(entry, kept, text.whole and kept[0] == text.paragraphs[0]))
    return left, dropped


def documents(texts: Iterable[Text]) -> Iterator[Row]:
    """One document per page (source file or topic), entries in their order: `{"text"}`."""
    pages: dict[str, list[str]] = {}
    for text in texts:
        pages.setdefault(text.entry.page if text.entry.kind != "topic" else text.entry.group, []).append(text.document)
    for parts in pages.values():
        yield {"text": "\n\n".join(parts) + "\n"}


def _pick(name: str, among: int) -> int:
    return int(hashlib.sha256(name.encode()).hexdigest()[8:16], 16) % among


def _user(content: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": content}]


def _assistant(content: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": content}]


def _asked_about(texts: Iterable[Text], topics: bool = False) -> Iterator[Text]:
    """Entries with a public name and a first paragraph of prose; a name that occurs twice is asked about once."""
    asked: set[str] = set()
    for text in texts:
        name = text.entry.name
        public = topics if text.entry.kind == "topic" else _PUBLIC.match(name) is not None
        if text.whole and public and name not in asked and is_prose(text.paragraphs[0]):
            asked.add(name)
            yield text


def is_prose(paragraph: str) -> bool:
    """Sentences rather than code, tables, prompts or lists of parameters."""
    text = _key(paragraph)
    letters = sum(c.isalpha() or c == " " for c in text)
    return (
        len(text) >= SHORTEST_ANSWER
        and text.count(" ") >= 2
        and (text[0].isalpha() or text[0] in "\"'`")
        and not paragraph.startswith(" ")
        and ">>>" not in text
        and letters >= 0.8 * len(text)
    )


def answer(parts: Iterable[str]) -> str:
    """Leading prose paragraphs as long as they fit; a first paragraph that is too long is cut after a sentence."""
    chosen: list[str] = []
    room = ANSWER_CHARACTERS
    for part in parts:
        text = _key(part)
        if not is_prose(part) or (chosen and len(text) > room):
            break
        chosen.append(text)
        room -= len(text) + 2
    first = chosen[0]
    if len(first) > ANSWER_CHARACTERS:
        ends = [m.start() for m in _SENTENCE_END.finditer(first) if m.start() <= ANSWER_CHARACTERS]
        return first[: ends[-1]] if ends else first[:ANSWER_CHARACTERS].rsplit(" ", 1)[0]
    return "\n\n".join(chosen)


def questions(texts: Iterable[Text]) -> Iterator[Row]:
    """A question about every public entry and its documented answer: `{"prompt", "completion"}`."""
    for text in _asked_about(texts, topics=True):
        entry = text.entry
        templates = _TEMPLATES[entry.kind]
        question = templates[_pick(entry.name, len(templates))].format(name=entry.name)
        yield {"prompt": _user(question), "completion": _assistant(answer(text.paragraphs))}


def pairs(texts: Iterable[Text], rejected: int = 1) -> Iterator[Row]:
    """An entry's first paragraph against others of the same entry, nearest in length first.

    Args:
      rejected: at most this many pairs per entry.
    """
    for text in _asked_about(texts):
        chosen = answer(text.paragraphs[:1])
        others = [answer((p,)) for p in text.paragraphs[1:] if is_prose(p)]
        others = [p for p in dict.fromkeys(others) if p != chosen]
        for other in sorted(others, key=lambda p: abs(len(p) - len(chosen)))[:rejected]:
            yield _pair(text, chosen, other)


def sibling_pairs(texts: Iterable[Text]) -> Iterator[Row]:
    """Harder: an entry's first paragraph against that of the entry on the same page nearest in length."""
    pages: dict[str, list[tuple[Text, str]]] = {}
    for text in _asked_about(texts):
        pages.setdefault(text.entry.page, []).append((text, answer(text.paragraphs[:1])))
    for members in pages.values():
        for text, chosen in members:
            others = [summary for other, summary in members if other is not text and summary != chosen]
            if others:
                yield _pair(text, chosen, min(others, key=lambda p: abs(len(p) - len(chosen))))


def _pair(text: Text, chosen: str, rejected: str) -> Row:
    prompt = _user(f"What does {text.entry.name} do?")
    return {"prompt": prompt, "chosen": _assistant(chosen), "rejected": _assistant(rejected)}
