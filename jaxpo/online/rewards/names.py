"""What metrics, tables and files call the rewards of a stage."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def reward_names(rewards: Iterable[Any]) -> list[str]:
    """Each reward's label, or the name of its kind; of two of one name the later one has its number."""
    names: list[str] = []
    for reward in rewards:
        name = str(getattr(reward, "label", "") or getattr(reward, "NAME", type(reward).__name__))
        names.append(name if name not in names else f"{name}_{len(names) + 1}")
    return names
