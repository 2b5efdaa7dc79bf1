"""Per-token columns that are kept beside a dataset's examples, and come with its batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from jaxpo.data.tokens.examples import Example
from jaxpo.data.tokens.layout import Layout

PerSegment = Sequence[Mapping[str, np.ndarray]]
"""Of one example's segments: name -> `[n, ...]`, as in `Segment.per_token`."""


class Columns(Protocol):
    """What one reader gives: reference log-probs (`ragged`), a teacher's records (`teacher_reader`)."""

    @property
    def layout(self) -> Layout:
        """dtype and trailing shape of every column, as in `Batch.per_token`."""
        ...

    def of_examples(self, numbers: Sequence[int], examples: Sequence[Example]) -> Iterable[PerSegment]:
        """The columns of these examples; several threads may ask at once."""
        ...
