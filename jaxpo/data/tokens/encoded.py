"""A text in tokens, before and after it is cut to the window."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxpo.data.media.geometry import Geometry
from jaxpo.data.media.marks import ImageMarks, expand
from jaxpo.data.tokens.media import MEDIA


@dataclass(frozen=True)
class Segment:
    """Tokens of one text.

    Attributes:
      tokens: int32 `[n]`.
      supervised: bool `[n]`, True where the token is trained on.
      per_token: name -> `[n, ...]` of any dtype: the phrase, step or item that a token belongs to (int32, 0 = none),
        codes, "media" (int32, the example's vector that takes the embedding's place, -1 = none).
    """

    tokens: np.ndarray
    supervised: np.ndarray
    per_token: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Encoded:
    """One side in tokens; `given` is the number of tokens before the first that is to be learnt.

    Attributes:
      inside: bool `[n]`, True at the ids that stand for images, their borders included; None = there is none.
    """

    tokens: np.ndarray
    supervised: np.ndarray
    given: int
    per_token: dict[str, np.ndarray] = field(default_factory=dict)
    inside: np.ndarray | None = None

    @property
    def image_tokens(self) -> int:
        """Ids that stand for images."""
        return 0 if self.inside is None else int(self.inside.sum())

    def keep(self, index: Any, given: int) -> Encoded:
        """Only the tokens at `index`."""
        per_token = {name: values[index] for name, values in self.per_token.items()}
        inside = None if self.inside is None else self.inside[index]
        return Encoded(self.tokens[index], self.supervised[index], given, per_token, inside)

    def segment(self, max_length: int) -> Segment:
        """The first `max_length` tokens."""
        kept = self.keep(slice(max_length), self.given)
        return Segment(kept.tokens, kept.supervised, kept.per_token)

    def shown(self, plans: list[Geometry], marks: ImageMarks) -> Encoded:
        """With all ids of every image in place of its one, on none of which is trained, and the column `media`.

        Raises:
          DataError: the text has more or fewer marks than there are images.
        """
        whole, vectors = expand(self.tokens, plans, marks)
        counts = np.ones(len(self.tokens), int)
        counts[self.tokens == marks.image] = [len(marks.of(plan)) for plan in plans]
        inside = np.repeat(counts > 1, counts)
        columns = {name: np.where(inside, 0, np.repeat(x, counts)) for name, x in self.per_token.items()}
        supervised = np.repeat(self.supervised, counts) & ~inside
        return Encoded(whole, supervised, int(counts[: self.given].sum()), {**columns, MEDIA: vectors}, inside)
