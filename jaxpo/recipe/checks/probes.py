"""The check of what probes measure: the model of every stage. Imports no jax."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from jaxpo.config import Run
from jaxpo.models.family import is_config


def probe_problems(run: Run, models: Mapping[str, Any]) -> Iterator[str]:
    """Models that a probe could not measure once they are trained.

    A probe says so with a method `problems(config)`, one sentence each; one without it measures every model.

    Args:
      models: name of what leaves a model -> its architecture; folders, whose shape is not known yet, are passed over.
    """
    for i, probe in enumerate(run.probes):
        asked: Callable[[Any], Iterable[str]] = getattr(probe, "problems", lambda config: ())
        for name, config in models.items():
            if is_config(config):
                yield from (f"probes[{i}]: {type(probe).__name__} after {name!r}: {p}" for p in asked(config))
