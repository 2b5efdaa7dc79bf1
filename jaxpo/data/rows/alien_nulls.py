"""Keys that a row has only because other rows of its file have them: Arrow gives every object the keys of all.

In `tools` they would stand in the prompt: `"city": null` in a tool without a city. Files of JSON mean what they say.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxpo.data.rows.files.readers import format_of

ALIGNED = (".parquet", ".arrow")
"""Suffixes of the files whose readers give every row the keys of all rows."""


def is_aligned(file: Path) -> bool:
    """Whether a null in a row of this file may stand for an absent key."""
    return format_of(file) in ALIGNED


def without_nulls(value: Any) -> Any:
    """The value without keys whose value is null, at any depth; nulls in lists stay."""
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list | tuple) else value
