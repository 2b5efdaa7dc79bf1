"""dtype and trailing shape of what the examples of a dataset carry: per-token columns, and the values of media."""

from __future__ import annotations

from typing import Any

import ml_dtypes  # noqa: F401  (makes numpy know bfloat16 by name)
import numpy as np

from jaxpo.data.tokens.examples import Example
from jaxpo.errors import DataError

Layout = dict[str, tuple[np.dtype[Any], tuple[int, ...]]]
"""Name -> dtype and trailing shape: what follows the axis of tokens or patches."""


class SeenLayouts:
    """Collects the layouts of examples, which must agree on them.

    Attributes:
      per_token: of the segments' columns.
      media: of the media's values, by kind.
    """

    def __init__(self) -> None:
        self.per_token: Layout = {}
        self.media: Layout = {}

    def see(self, example: Example, file: object = None) -> None:
        """DataError when a column, or the media, differ from earlier examples'."""
        for segment in example.segments:
            for name, values in segment.per_token.items():
                _same(self.per_token, name, values, example, file)
        for patches in example.media:
            _same(self.media, patches.kind, patches.values, example, file)
        if len(self.media) > 1:
            remedy = "A data set has media of one kind: split it."
            raise _error(example, file, "media", f"kinds {' and '.join(self.media)} in one data set.", remedy)


def _same(seen: Layout, name: str, values: np.ndarray, example: Example, file: object) -> None:
    own = values.dtype, values.shape[1:]
    if seen.setdefault(name, own) != own:
        what = f"{own[0]} {list(own[1])}, but {seen[name][0]} {list(seen[name][1])} in earlier rows."
        raise _error(example, file, name, what, "Every row must have the same type and shape.")


def _error(example: Example, file: object, field: str, what: str, remedy: str) -> DataError:
    return DataError(what, file=file, row=example.row, field=field, remedy=remedy)


def to_json(layout: Layout) -> dict[str, Any]:
    """Names of types and lists of numbers; `from_json` is the inverse."""
    return {name: [dtype.name, list(shape)] for name, (dtype, shape) in layout.items()}


def from_json(stored: dict[str, Any]) -> Layout:
    """Inverse of `to_json`."""
    return {name: (np.dtype(dtype), tuple(shape)) for name, (dtype, shape) in stored.items()}
