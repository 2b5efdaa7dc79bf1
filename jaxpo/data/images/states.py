"""States of texts that stand in files: checked, and those of the empty caption."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxpo.data.images.formats import STATES
from jaxpo.data.rows.formats import read_rows
from jaxpo.errors import DataError


def finite(given: Any) -> np.ndarray | None:
    """float32; None where it is no array of finite numbers."""
    try:
        values = np.asarray(given, np.float32)
    except (TypeError, ValueError):
        return None
    return values if np.isfinite(values).all() else None


def states_of(given: Any, width: int, error: Callable[..., DataError], field: str = STATES) -> np.ndarray:
    """float16 `[L, width]`.

    Args:
      error: makes a DataError that says where the states stand.

    Raises:
      DataError: they are no such array, or too large for 16 bits.
    """
    values = finite(given)
    if values is None or values.ndim != 2 or values.shape[1] != width or not len(values):
        raise error(f"is no finite array [L][{width}], the width of the model's text states.", field=field)
    with np.errstate(over="ignore"):
        kept = values.astype(np.float16)
    if not np.isfinite(kept).all():
        raise error("holds a number that is too large for 16 bits.", field=field)
    return kept


def joined_states(given: Sequence[np.ndarray | None], length: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """float32 `[N, length, width]` filled up with zeros, and `[N, length]` where states are."""
    states, mask = np.zeros((len(given), length, width), np.float32), np.zeros((len(given), length), bool)
    for i, own in enumerate(given):
        if own is not None:
            states[i, : len(own)], mask[i, : len(own)] = own, True
    return states, mask


def empty_states(file: Path, width: int) -> np.ndarray:
    """float16 `[L, width]`: what the data's text encoder makes of the empty caption, the one row of a file.

    Raises:
      DataError: it has no row with such states, or one that is not of the empty caption.
    """
    remedy = '`jaxpo data encode-images` with --states makes it of a row {"caption": ""}.'
    row = next(iter(read_rows([file])), None)
    if row is None or STATES not in row.data:
        raise DataError(f"has no row with {STATES} of the empty caption.", file=file, remedy=remedy)
    if row.data.get("caption"):
        raise row.error("is not the empty caption.", field="caption", remedy=remedy)
    return states_of(row.data[STATES], width, row.error)
