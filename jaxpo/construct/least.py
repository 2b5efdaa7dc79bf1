"""The smallest values that options may have."""

from __future__ import annotations

from collections.abc import Mapping


def below(options: object, least: Mapping[str, float]) -> list[str]:
    """What is too small, or no number, each by its name."""
    return [
        f"{name} is {getattr(options, name)} but must be at least {smallest}."
        for name, smallest in least.items()
        if not getattr(options, name) >= smallest
    ]
