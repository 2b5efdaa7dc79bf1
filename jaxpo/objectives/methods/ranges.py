"""Hyper-parameters out of their range. Imports no jax."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints


def field_problems(method: Any) -> list[str]:
    """Fields out of range and choices that do not exist, one sentence each; empty if there are none."""
    found, hints = [], get_type_hints(type(method))
    for f in fields(method):
        value, limits = getattr(method, f.name), f.metadata
        if get_origin(hints[f.name]) is Literal and value not in get_args(hints[f.name]):
            choices = ", ".join(map(repr, get_args(hints[f.name])))
            found.append(f"{method.INFO.name}: {f.name} is {value!r} but must be one of {choices}.")
        if "above" not in limits or (value is None and f.default is None):
            continue
        wrong = not isinstance(value, (int, float)) or not math.isfinite(value)
        wrong = wrong or (limits["above"] is not None and value <= limits["above"])
        wrong = wrong or (limits["at_least"] is not None and value < limits["at_least"])
        wrong = wrong or (limits["at_most"] is not None and value > limits["at_most"])
        if wrong:
            found.append(f"{method.INFO.name}: {f.name} is {value!r} but must be a number {_range(limits)}.")
    return found


def _range(limits: Mapping[str, float | None]) -> str:
    words = {"above": "greater than", "at_least": "at least", "at_most": "at most"}
    return (
        " and ".join(f"{word} {limits[k]:g}" for k, word in words.items() if limits[k] is not None) or "that is finite"
    )
