"""The prompts of a stage, in an endless order: all of them once per epoch, shuffled anew."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from jaxpo.data.packing.best_fit import random_order
from jaxpo.data.rows.formats import Row, read_rows
from jaxpo.data.rows.rows import canonical, read_record
from jaxpo.data.tokens.dataset import Dataset
from jaxpo.errors import DataError
from jaxpo.online.answers import Prompt


class Prompts:
    """Tokens of prompts beside the rows that they come from.

    Args:
      dataset: prepared for "prompts"; or one of pairs, whose responses are left out.
      seed: of the order.
      shuffle: a new order each epoch; False keeps that of the file.

    Raises:
      DataError: a row has gone since the prompts were tokenised.
    """

    def __init__(self, dataset: Dataset, *, seed: int, shuffle: bool = True):
        self.dataset, self.seed, self.shuffle = dataset, seed, shuffle
        self._orders: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.dataset)

    @cached_property
    def _rows(self) -> dict[tuple[int, int], dict[str, Any]]:
        """(file, row) -> its columns; read once and kept."""
        files = {Path(file): i for i, file in enumerate(self.dataset.files)}
        rows = read_rows(self.dataset.files, bad=lambda error: None)
        return {(files[row.file], row.number): dict(canonical(row).data) for row in rows}

    def number(self, position: int) -> int:
        """Number of the prompt at a position of the endless order."""
        epoch, place = divmod(position, len(self))
        if not self.shuffle:
            return place
        if epoch not in self._orders:
            self._orders = {epoch: random_order(self.seed, epoch, len(self))}
        return int(self._orders[epoch][place])

    def at(self, number: int) -> Prompt:
        """One prompt."""
        (example,) = self.dataset.store.read([number])
        file = Path(self.dataset.files[example.file])
        columns = self._rows.get((example.file, example.row))
        if columns is None:
            raise DataError("has gone since it was tokenised.", file=file, row=example.row, remedy="Put it back.")
        row = Row(file, example.row, columns)
        if "prompt" not in columns:
            raise row.error("gives no prompt to be answered.", field="prompt", remedy="Add a column `prompt`.")
        text = read_record(row, "prompt").sides[0].prompt
        assert text is not None
        segment = example.segments[0]
        given = int(segment.supervised.argmax()) if segment.supervised.any() else len(segment.tokens)
        return Prompt(number, np.asarray(segment.tokens[:given]), text, columns, file, example.row)
