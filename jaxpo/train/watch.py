"""Compilations as JAX reports them: how long they took and how many there were."""

from __future__ import annotations

import time
from types import TracebackType

import jax.monitoring

_PREFIX = "/jax/core/compile/"
_BACKEND = "/jax/core/compile/backend_compile_duration"


class CompileWatch:
    """Listens to JAX's tracing, lowering and compilation events between entry and exit."""

    def __init__(self) -> None:
        self.compilations = 0
        self._spans: list[tuple[float, float]] = []

    def __enter__(self) -> CompileWatch:
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        jax.monitoring.unregister_event_duration_listener(self._listen)

    @property
    def seconds(self) -> float:
        """Time spent tracing, lowering and compiling; events nest, so this is the length of their union."""
        total, end = 0.0, float("-inf")
        for start, stop in sorted(self._spans):
            total += max(0.0, stop - max(start, end))
            end = max(end, stop)
        return total

    def _listen(self, event: str, duration_secs: float, **labels: str | int) -> None:
        if event.startswith(_PREFIX):
            now = time.perf_counter()
            self._spans.append((now - duration_secs, now))
        self.compilations += event == _BACKEND
