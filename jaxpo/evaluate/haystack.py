"""Long texts with one sentence hidden in them, of a given length in a model's tokens. Imports no jax."""

from __future__ import annotations

import bisect
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

SUBJECTS = (
    "The baker", "A young teacher", "The harbour master", "Her neighbour", "The old gardener", "A travelling painter",
    "The librarian", "His cousin", "The watchmaker", "A retired sailor", "The miller", "Our postman",
)  # fmt: skip
VERBS = (
    "counted", "carried", "sold", "repaired", "painted", "borrowed", "collected", "described", "photographed", "lost",
    "wrapped", "weighed",
)  # fmt: skip
OBJECTS = (
    "a basket of pears", "two wooden chairs", "the blue lanterns", "a pile of letters", "several copper pots",
    "an umbrella", "the garden tools", "a box of candles", "three woollen blankets", "the church bells", "some maps",
    "a barrel of salt",
)  # fmt: skip
PLACES = (
    "near the bridge", "in the market hall", "behind the mill", "at the railway station", "by the lake",
    "under the chestnut trees", "in the narrow street", "beside the fountain", "on the hill", "in front of the school",
    "at the edge of the forest", "along the canal",
)  # fmt: skip
TIMES = (
    "before noon", "on a rainy Tuesday", "while the others slept", "late in the evening", "after the fair",
    "during the first snow", "without saying a word", "as he had promised", "for the third time", "in early spring",
    "when the wind turned", "shortly after sunrise",
)  # fmt: skip
_PARTS = (SUBJECTS, VERBS, OBJECTS, PLACES, TIMES)
_ENDS = re.compile(r"[.!?。！？][\"'”’)\]]*$")
NEAR = 0.02
"""A sentence border so near to the depth wanted, as a part of the text, is taken; otherwise the word border there."""
SLACK = 4
"""Tokens that may be missing from a length."""


def filler(words: int, seed: int) -> str:
    """Plain sentences without digits, drawn from 12^5; at least so many words. A function of its arguments."""
    draw = random.Random(seed)
    sentences: list[str] = []
    count = 0
    while count < words:
        sentence = " ".join(draw.choice(part) for part in _PARTS) + "."
        count += sentence.count(" ") + 1
        sentences.append(sentence)
    return " ".join(sentences)


@dataclass(frozen=True)
class Haystack:
    """A text that is cut at words, with line breaks and spaces as they are."""

    text: str

    @cached_property
    def ends(self) -> list[int]:
        """Where every word ends, in characters; 0 before the first."""
        return [0, *(word.end() for word in re.finditer(r"\S+", self.text))]

    @property
    def words(self) -> int:
        """How many there are."""
        return len(self.ends) - 1

    @cached_property
    def borders(self) -> list[int]:
        """After how many words a sentence ends."""
        pairs = enumerate(zip(self.ends, self.ends[1:], strict=False), start=1)
        return [n for n, (start, end) in pairs if _ENDS.search(self.text[start:end])]

    def hide(self, needle: str, depth: float, words: int) -> str:
        """The first words of the text with a sentence put in.

        Args:
          needle: the sentence.
          depth: 0 = before everything, 1 = after everything; between, at the border of two sentences nearest to
            `depth * words`, or at that word where none is within `NEAR` of it.
          words: of the text.
        """
        at = self._place(depth, words)
        before, after = self.text[: self.ends[at]].strip(), self.text[self.ends[at] : self.ends[words]].strip()
        return " ".join(part for part in (before, needle, after) if part)

    def _place(self, depth: float, words: int) -> int:
        wanted = round(depth * words)
        if depth in (0, 1):
            return wanted
        i = bisect.bisect(self.borders, wanted)
        near = [n for n in self.borders[max(0, i - 1) : i + 1] if n <= words]
        best = min(near, key=lambda n: abs(n - wanted), default=wanted)
        return best if abs(best - wanted) <= NEAR * words else wanted


def most_words(length: int, words: int, size: Callable[[int], int]) -> int:
    """The largest n, to within `SLACK` tokens, with size(n) <= length; -1 where not even size(0) is.

    Args:
      length: tokens.
      words: the largest n that there is.
      size: tokens of a prompt with n words of the haystack; grows with n. It is asked about five times.
    """
    low, low_size = 0, size(0)
    if low_size > length:
        return -1
    high, rate = words + 1, 1.0
    while high - low > 1 and length - low_size > SLACK:
        n = min(max(low + 1, low + int((length - low_size) / rate)), high - 1)
        found = size(n)
        rate = max((found - low_size) / (n - low), 0.1)
        if found <= length:
            low, low_size = n, found
        else:
            high = n
    return low
