"""Needle in a haystack: does a model find one sentence in a long text, by length and depth.

Reference: Kamradt 2023; numbers as needles as in RULER (Hsieh et al. 2024, arXiv 2404.06654), its single-needle task.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from jaxpo.errors import ConfigError, DataError
from jaxpo.evaluate.grid import Grid
from jaxpo.evaluate.haystack import NEAR, SLACK, Haystack, filler, most_words
from jaxpo.evaluate.tasks.base import Ask, Question, Reader, Reply, Scored, Task
from jaxpo.evaluate.tasks.files import present, spaced
from jaxpo.evaluate.tasks.reading import Score
from jaxpo.sampling.prompts import Prompt

NAMES = (
    "Amsterdam", "Bergen", "Cusco", "Dakar", "Essen", "Florence", "Granada", "Havana", "Izmir", "Jaipur", "Kyoto",
    "Lisbon", "Mombasa", "Naples", "Odense", "Porto",
)  # fmt: skip
BEFORE = "A special magic number is hidden in the following text. Remember it, it is asked for afterwards."
AFTER = "What is the special magic number for {name} in this text?"
START = "The special magic number for {name} is:"
RETRIEVED = "retrieved"
_NUMBER = re.compile(r"\d[\d,]*")


@dataclass(frozen=True)
class Hidden:
    """One needle: what is hidden, how long the prompt is, and how deep it lies.

    Attributes:
      number: of the example, which seeds its text.
      name, value: the special magic number for NAME is VALUE.
    """

    number: int
    length: int
    depth: float
    name: str
    value: str

    @property
    def sentence(self) -> str:
        """What is put into the text."""
        return f"{START.format(name=self.name)} {self.value}."


@dataclass(frozen=True)
class Needle(Task[Hidden]):
    """Share of needles whose number is the first that the answer holds, in all, by length, and by length and depth.

    Attributes:
      lengths: tokens of the prompt, template included, and of the room for its answer, together.
      depths: where the needle lies, 0 = at the beginning, 1 = at the end.
      tries: needles per length and depth, each with its own number, and with its own text where none is given.
      max_new_tokens: room for the answer.
      seed: of names, numbers and texts.
      chat: whether the prompt is what a user says; otherwise the answer's beginning is given too.
    """

    NAME: ClassVar[str] = "needle"
    ABOUT: ClassVar[str] = "one sentence found in a long text, by length and depth"
    NEEDS: ClassVar[str] = "a text file to hide it in; plain sentences are made when it is left out"
    OPTIONAL: ClassVar[bool] = True

    lengths: tuple[int, ...] = (1024, 2048, 4096, 8192, 16384, 32768)
    depths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    tries: int = 2
    max_new_tokens: int = 48
    seed: int = 0
    chat: bool = False

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        for name in ("lengths", "depths"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                yield f"{self.NAME}.{name}: {values} must be at least one, and each once."
        for depth in self.depths:
            if not 0 <= depth <= 1:
                yield f"{self.NAME}.depths: {depth} must be from 0 to 1."
        for length in self.lengths:
            if length <= self.max_new_tokens:
                yield f"{self.NAME}.lengths: {length} must be more than max_new_tokens, {self.max_new_tokens}."
        for name in ("tries", "max_new_tokens"):
            if getattr(self, name) < 1:
                yield f"{self.NAME}.{name}: {getattr(self, name)} must be at least 1."

    def examples(self) -> list[Hidden]:
        _ = self._given
        cells = [(length, depth) for length in self.lengths for depth in self.depths for _ in range(self.tries)]
        draw = random.Random(self.seed)
        made = [
            Hidden(i, length, depth, draw.choice(NAMES), str(draw.randrange(10**6, 10**7)))
            for i, (length, depth) in enumerate(cells)
        ]
        return spaced(made, self.limit)

    def ask(self, example: Hidden, reader: Reader) -> Ask:
        from jaxpo.sampling.text import encode_prompt

        beyond = [length for length in self.lengths if length > reader.context]
        if beyond:
            within = ",".join(str(length) for length in self.lengths if length <= reader.context) or str(reader.context)
            raise ConfigError(
                f"{self.NAME}.lengths: {', '.join(map(str, beyond))} tokens, but the model has {reader.context} "
                f"positions: --set {self.NAME}.lengths={within}."
            )
        hay, room = self._hay(example), example.length - self.max_new_tokens

        def size(words: int) -> int:
            return len(encode_prompt(reader.tokenizer, self.prompt(example, hay, words)))

        words = most_words(room, hay.words, size)
        if words < 1:
            raise ConfigError(
                f"{self.NAME}.lengths: {example.length} tokens hold no text beside the question and "
                f"{self.max_new_tokens} tokens of answer; give larger ones."
            )
        if words == hay.words and (short := size(words)) < room - SLACK:
            raise DataError(
                f"has {short + self.max_new_tokens} tokens with its question and answer, too few for {example.length}.",
                file=self.source,
                remedy=f"Give a longer text, or smaller lengths: --set {self.NAME}.lengths=...",
            )
        question = Question(self.prompt(example, hay, words), self.max_new_tokens)
        return Ask(questions=(question,), where=f"length {example.length}, depth {example.depth:g}")

    def prompt(self, example: Hidden, hay: Haystack, words: int) -> Prompt:
        """The text with its needle, between what is told before and asked after."""
        hidden = hay.hide(example.sentence, example.depth, words)
        text = f"{BEFORE}\n\n{hidden}\n\n{AFTER.format(name=example.name)}"
        if self.chat:
            return [{"role": "user", "content": text}]
        return f"{text}\n{START.format(name=example.name)}"

    def score(self, example: Hidden, reply: Reply) -> Scored:
        (answer,) = reply.texts
        number = _NUMBER.search(answer)
        found = number is not None and number.group().replace(",", "") == example.value
        length, depth = f"{example.length}", f"{example.depth:g}"
        return Scored(
            {RETRIEVED: float(found)},
            groups=(length, f"depth_{depth}", f"{length}_depth_{depth}"),
            prompt=f"length {length}, depth {depth}: {example.sentence}",
            answer=answer,
            expected=example.value,
            worst=1.0 - found,
        )

    def scores(self) -> Mapping[str, Score]:
        return {RETRIEVED: Score("needles whose number the answer begins with", binary=True)}

    def grid(self, scored: Sequence[Scored]) -> Grid:
        """Shares by depth and length; cells without a needle (`limit`) are empty."""
        of = {
            (length, depth): [one.values[RETRIEVED] for one in scored if f"{length}_depth_{depth:g}" in one.groups]
            for length in self.lengths
            for depth in self.depths
        }
        values = tuple(
            tuple(sum(x) / len(x) if (x := of[length, depth]) else None for length in self.lengths)
            for depth in self.depths
        )
        columns, rows = tuple(f"{x:,}" for x in self.lengths), tuple(f"{x:.0%}" for x in self.depths)
        return Grid("needles retrieved, by depth and length in tokens", "depth", rows, "length", columns, values)

    @property
    def format(self) -> str:
        texts = self._given or [filler(99, self.seed)]
        return repr((BEFORE, AFTER, START, self.lengths, self.depths, self.tries, self.seed, self.chat, NEAR, texts))

    @property
    def in_template(self) -> bool:
        return self.chat

    @cached_property
    def _given(self) -> Haystack | None:
        """The user's text."""
        if self.source is None:
            return None
        path = present(self.NAME, self.source, self.NEEDS)
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, IsADirectoryError) as error:
            raise DataError(f"is no text in UTF-8: {error}.", file=path, remedy="Give a plain text file.") from error
        if not text.strip():
            raise DataError("is empty.", file=path, remedy="Give a text that is longer than the lengths asked for.")
        return Haystack(text)

    def _hay(self, example: Hidden) -> Haystack:
        # A word takes a token or more.
        return self._given or Haystack(filler(example.length, self.seed + example.number))
