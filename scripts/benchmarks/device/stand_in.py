"""jaxtyping's names where it is not installed: the package's annotations are documentation and are never evaluated."""

from __future__ import annotations

import importlib.util
import sys
import types
from typing import Any


class _Annotation:
    """What `Float[Array, "R S"]` gives where somebody asks."""

    def __class_getitem__(cls, item: Any) -> Any:
        return cls


def without_jaxtyping() -> None:
    """Let `from jaxtyping import ...` work on a machine that has jax and not jaxtyping."""
    if "jaxtyping" in sys.modules or importlib.util.find_spec("jaxtyping") is not None:
        return
    module = types.ModuleType("jaxtyping")
    module.__getattr__ = lambda name: _Annotation  # type: ignore[method-assign]
    sys.modules["jaxtyping"] = module
