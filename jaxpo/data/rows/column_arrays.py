"""The columns of numbers of a whole file, as arrays: what only all rows together show."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxpo.data.rows.columns import BY_NAME, DTYPES, NAMES, extent, laid_out
from jaxpo.data.rows.rows import Record


class ColumnArrays:
    """Collects the columns of records as they come."""

    def __init__(self) -> None:
        self._keys: dict[str, tuple[str, ...]] = {}
        self._values: dict[str, list[Any]] = {}
        self._names: dict[str, dict[str, int]] = {name: {} for name in NAMES}

    def see(self, record: Record) -> None:
        for name, value in record.columns.items():
            if name in NAMES:
                value = self._names[name].setdefault(value, len(self._names[name]))
            elif name in BY_NAME:
                self._keys[name] = tuple(value)
                value = list(value.values())
            self._values.setdefault(name, []).append(value)

    @property
    def names(self) -> dict[str, tuple[str, ...]]:
        """Of the columns that are objects, the same in every row; of the columns of names, those behind the numbers."""
        return self._keys | {column: tuple(found) for column, found in self._names.items() if found}

    def arrays(self) -> dict[str, np.ndarray]:
        """Name -> array with a row per example, as a stage's checks take it; NaN ends short lists."""
        return {name: _array(values, DTYPES.get(name, np.float32)) for name, values in self._values.items()}


def _array(values: list[Any], dtype: Any) -> np.ndarray:
    longest = max(map(extent, values))
    if not longest:
        return np.asarray(values, dtype)
    array = np.full((len(values), *longest), np.nan, dtype)
    for n, value in enumerate(values):
        laid_out(array[n], value)
    return array
