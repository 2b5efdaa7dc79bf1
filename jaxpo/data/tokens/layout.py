"""What the examples of a dataset carry, checked: dtype and trailing shape of per-token columns and media, and marks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes  # noqa: F401  (makes numpy know bfloat16 by name)
import numpy as np

from jaxpo.data.tokens.examples import Example
from jaxpo.data.tokens.media import MEDIA, PER_VECTOR
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
                _same(self.per_token, name, (values.dtype, values.shape[1:]), example, file)
        for patches in example.media:
            _same(self.media, patches.kind, (patches.values.dtype, patches.values.shape[1:]), example, file)
        for picture in example.pictures:
            _same(self.media, picture.kind, (np.dtype(np.uint8), (picture.values,)), example, file)
        if len(self.media) > 1:
            remedy = "A data set has media of one kind: split it."
            kinds = f"kinds {' and '.join(self.media)} in one data set."
            raise example.error(kinds, field=MEDIA, remedy=remedy, file=file)


def _same(seen: Layout, name: str, own: tuple[np.dtype[Any], tuple[int, ...]], example: Example, file: object) -> None:
    if seen.setdefault(name, own) != own:
        what = f"{own[0]} {list(own[1])}, but {seen[name][0]} {list(seen[name][1])} in earlier rows."
        raise example.error(what, field=name, remedy="Every row must have the same type and shape.", file=file)


def to_json(layout: Layout) -> dict[str, Any]:
    """Names of types and lists of numbers; `from_json` is the inverse."""
    return {name: [dtype.name, list(shape)] for name, (dtype, shape) in layout.items()}


def from_json(stored: dict[str, Any]) -> Layout:
    """Inverse of `to_json`."""
    return {name: (np.dtype(dtype), tuple(shape)) for name, (dtype, shape) in stored.items()}


def merged_layouts(parts: Sequence[dict[str, Any]], what: str) -> dict[str, Any]:
    """The layouts of all shards, as JSON; DataError where two of them do not agree."""
    found: dict[str, Any] = {}
    for part in parts:
        for name, own in part.items():
            if found.setdefault(name, own) != own:
                problem = f"{what}: {own[0]} {own[1]} in some files and {found[name][0]} {found[name][1]} in others."
                raise DataError(problem, field=name, remedy="Every row must have the same type and shape.")
    if what == "media" and len(found) > 1:
        raise DataError(f"kinds {' and '.join(found)} in one data set.", field=MEDIA, remedy="Split it.")
    return found


def check_media(example: Example, file: object = None) -> None:
    """Every vector must take a token's place, and every mark must name a vector.

    Raises:
      DataError: media without a mark, a mark without media, or patches that fill no vector.
    """
    marks = [s.per_token[MEDIA] for s in example.segments if MEDIA in s.per_token]
    lengths = example.media_lengths
    if not marks and not lengths:
        return
    for number, patches in enumerate(example.media):
        if len(patches) % PER_VECTOR or patches.positions.shape != (len(patches), 4):
            raise example.error(
                f"medium {number} has {len(patches)} patches and positions {patches.positions.shape}.",
                field=MEDIA,
                remedy=f"Give a multiple of {PER_VECTOR} patches, and row, column, rows and columns for each.",
                file=file,
            )
    vectors, used = sum(lengths) // PER_VECTOR, np.unique(np.concatenate([np.zeros(0, np.int32), *marks]))
    if len(used) and used[-1] >= vectors:
        raise example.error(
            f"mark {used[-1]} has no media: there are {vectors} vectors.",
            field=MEDIA,
            remedy="Give one medium for each place of one in the text, in the same order.",
            file=file,
        )
    unmarked = np.setdiff1d(np.arange(vectors), used)
    if len(unmarked):
        raise example.error(
            f"{len(unmarked)} of {vectors} vectors of media have no mark (vector {unmarked[0]} first).",
            field=MEDIA,
            remedy="Give the text a place for each medium; raise data.max_length if truncation cut the place off.",
            file=file,
        )
