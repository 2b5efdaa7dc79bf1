"""Functions that are imported when they are first called, so that whoever names them loads no jax."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any


def named(where: str) -> Any:
    """What `module:name` stands for; the module is imported now."""
    module, _, name = where.partition(":")
    return getattr(importlib.import_module(module), name)


def lazy(where: str) -> Callable[..., Any]:
    """The function `module:name`, whose module is imported when it is called."""
    return partial(_call, where)


def _call(where: str, *given: Any, **options: Any) -> Any:
    return named(where)(*given, **options)
