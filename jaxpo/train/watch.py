"""Compilations as JAX reports them: how long they took and how many there were."""

from __future__ import annotations

import time
from types import TracebackType

import jax.monitoring

_PREFIX = "/jax/core/compile/"
_BACKEND = "/jax/core/compile/backend_compile_duration"


class CompileWatch:
    """Listens to JAX's tracing, lowering and compilation events between entry and exit.

    Attributes:
      compilations: programs that the backend compiled, or read from the persistent cache.
      seconds: time spent tracing, lowering and compiling; events nest, so this is the length of their union.
    """

    def __init__(self) -> None:
        self.compilations = 0
        self.seconds = 0.0
        self._spans: list[tuple[float, float]] = []

    def __enter__(self) -> CompileWatch:
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        jax.monitoring.unregister_event_duration_listener(self._listen)

    def note(self, start: float, stop: float) -> None:
        """Add a span that ends no sooner than those before it; what it covers of them counts once."""
        while self._spans and self._spans[-1][1] > start:
            before = self._spans.pop()
            self.seconds -= before[1] - before[0]
            start = min(start, before[0])
        self._spans.append((start, stop))
        self.seconds += stop - start

    def _listen(self, event: str, duration_secs: float, **labels: str | int) -> None:
        if event.startswith(_PREFIX):
            now = time.perf_counter()
            self.note(now - duration_secs, now)
        self.compilations += event == _BACKEND
