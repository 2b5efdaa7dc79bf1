"""Rows that cannot be used, and images: an error, or left out, counted and listed, up to a limit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxpo.config import Data
from jaxpo.errors import BadImage, DataError

Bad = Callable[[DataError], None]
"""Receives the error of a row that cannot be used; raises it, or returns and the row is left out."""
DROPPED, UNSEEN = "dropped_bad_rows", "dropped_bad_images"


def refuse(error: DataError) -> None:
    """Rows that cannot be used stop what reads them."""
    raise error


def unsaid(error: DataError) -> None:
    """For rows that are counted when they are read another time."""


class BadRows:
    """What `data.on_bad_row`, `data.images.on_bad_image` and `data.max_bad_rows` say of bad rows.

    Attributes:
      listed: of every row that is left out its file (a number among `files`), row, field and problem.
    """

    def __init__(self, data: Data, counts: Counter[str], files: Sequence[Path]):
        self._skip, self._most, self._counts = data.on_bad_row == "skip", data.max_bad_rows, counts
        self._skip_images = data.images is not None and data.images.on_bad_image == "skip"
        self._numbers = {str(file): i for i, file in enumerate(files)}
        self.listed: list[dict[str, Any]] = []

    def __call__(self, error: DataError) -> None:
        """Count the row and list it.

        Raises:
          DataError: rows are not to be skipped, this is no row's error of these files, or there are too many of them.
        """
        file = self._numbers.get(str(error.file))
        image = self._skip_images and type(error) is BadImage
        if not (self._skip or image) or error.row is None or file is None:
            raise error
        self._counts[UNSEEN if image else DROPPED] += 1
        self.listed.append({"file": file, "row": error.row, "field": error.field, "problem": error.message})
        check_number(len(self.listed), self._most, error)


def check_number(bad: int, most: int, last: DataError | None = None) -> None:
    """DataError for more bad rows than `data.max_bad_rows` allows."""
    if bad > most:
        remedy = "Mend the files, or raise the limit."
        known = f" The last: {last}" if last is not None else ""
        raise DataError(f"{bad} rows cannot be used, and data.max_bad_rows is {most}.{known}", remedy=remedy)
