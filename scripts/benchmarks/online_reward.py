"""The reward of W14, in a file of its own, as a user's is."""

from __future__ import annotations

from typing import Any


def even(completion_ids: list[list[int]], **columns: Any) -> list[float]:
    """The share of even ids: any reward that differs between the answers of a group."""
    return [sum(i % 2 == 0 for i in ids) / max(len(ids), 1) for ids in completion_ids]
