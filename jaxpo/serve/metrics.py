"""What `/metrics` shows, in Prometheus' text format."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterator, Mapping

from jaxpo.train.prometheus import PREFIX, labels

BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
LAST = 64


class Histogram:
    """Seconds, counted up to each of `BOUNDS`."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self._sum = 0.0
        self._last: deque[float] = deque(maxlen=LAST)

    def add(self, seconds: float) -> None:
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self._sum += seconds
        self._last.append(seconds)

    def recent(self) -> float:
        """Mean of the last ones; 0 of none."""
        return sum(self._last) / len(self._last) if self._last else 0.0

    def lines(self, name: str) -> Iterator[str]:
        yield f"# TYPE {name} histogram"
        total = 0
        for bound, count in zip((*map(str, BOUNDS), "+Inf"), self._counts, strict=True):
            total += count
            yield f"{name}_bucket{labels(le=bound)} {total}"
        yield f"{name}_sum {self._sum!r}"
        yield f"{name}_count {total}"


class Metrics:
    """Counted by the event loop's thread alone.

    Attributes:
      prompt_tokens, generated_tokens: of requests that were answered, in part or whole.
      gone: clients that left before their answer ended.
      seconds, first: of whole requests, and until the first tokens of streams.
    """

    def __init__(self) -> None:
        self.answered: Counter[tuple[str, int]] = Counter()
        self.prompt_tokens = self.generated_tokens = self.gone = 0
        self.seconds, self.first = Histogram(), Histogram()

    def text(self, gauges: Mapping[str, float]) -> str:
        """Everything that was counted, and `gauges` as they stand now."""
        name = f"{PREFIX}serve_requests_total"
        lines = [f"# TYPE {name} counter"]
        lines += [
            f"{name}{labels(path=path, status=str(status))} {count}"
            for (path, status), count in sorted(self.answered.items())
        ]
        counters = {
            "prompt_tokens_total": self.prompt_tokens,
            "generated_tokens_total": self.generated_tokens,
            "clients_gone_total": self.gone,
        }
        for kind, values in (("counter", counters), ("gauge", gauges)):
            for short, value in values.items():
                lines += [f"# TYPE {PREFIX}serve_{short} {kind}", f"{PREFIX}serve_{short} {value!r}"]
        lines += self.seconds.lines(f"{PREFIX}serve_request_seconds")
        lines += self.first.lines(f"{PREFIX}serve_first_token_seconds")
        return "\n".join(lines) + "\n"
