"""What a run warns of: frozen dataclasses with `check(record, history)`. Imports no jax.

`record` is a line of `metrics.jsonl` as it is written: {"stage", "step", name: number, ...}. `history` are the lines of
the same stage before it, oldest first, those of earlier starts among them. `check` returns what is wrong in words, or
None. A recipe may hold its own ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeGuard

Record = Mapping[str, Any]
KEPT = 512
"""Lines of a stage that are handed on as history."""
_NORMAL = 1.4826
"""Standard deviation of a normal distribution in units of its median absolute deviation."""


@dataclass(frozen=True)
class LossSpike:
    """A metric far above its running median:

        (x - median) / max(1.4826 median(|x_i - median|), floor |median|) > threshold

    Attributes:
      window: logged values that the median is taken of.
      least: values before which nothing is said.
      floor: smallest spread that counts, as a share of the median: a flat curve has none of its own.
    """

    metric: str = "loss"
    threshold: float = 8.0
    window: int = 50
    least: int = 10
    floor: float = 0.01

    def check(self, record: Record, history: Sequence[Record]) -> str | None:
        value, before = record.get(self.metric), values(history, self.metric)[-self.window :]
        if not is_number(value) or len(before) < self.least:
            return None
        middle = median(before)
        spread = max(_NORMAL * median(abs(x - middle) for x in before), self.floor * abs(middle))
        if value - middle <= self.threshold * spread:
            return None
        score = f"{(value - middle) / spread:.1f} spreads" if spread else "any spread"
        return f"{self.metric} {value:.4g} is {score} above the median {middle:.4g} of the last {len(before)} lines"


@dataclass(frozen=True)
class NonFinite:
    """Updates that were skipped, or a metric that is no finite number."""

    def check(self, record: Record, history: Sequence[Record]) -> str | None:
        skipped = record.get("skipped")
        if is_number(skipped) and skipped > 0:
            return f"{skipped:.0%} of the updates since the last line were skipped, for a loss or gradient not finite"
        bad = [k for k, v in record.items() if isinstance(v, float) and not math.isfinite(v)]
        return f"{', '.join(bad)}: not finite" if bad else None


@dataclass(frozen=True)
class Stall:
    """A step that took long: over `seconds`, and over `factor` times the median step of the lines before.

    It is seen once the step has ended; compilation, evaluation and saving do not count.
    """

    seconds: float = 60.0
    factor: float = 10.0

    def check(self, record: Record, history: Sequence[Record]) -> str | None:
        longest, usual = record.get("step_time_max"), values(history, "step_time")
        if not is_number(longest) or not usual or longest <= max(self.seconds, self.factor * median(usual)):
            return None
        return f"a step took {longest:.3g} s, where {median(usual):.3g} s are usual"


@dataclass(frozen=True)
class ThroughputDrop:
    """Tokens per second below a share of their running median, in several lines on end.

    Attributes:
      window: logged values that the median is taken of.
      lines: that are all below it.
      seconds: that these took together at least: of a few quick steps some are always slow.
    """

    share: float = 0.7
    lines: int = 3
    seconds: float = 60.0
    window: int = 50
    least: int = 10

    def check(self, record: Record, history: Sequence[Record]) -> str | None:
        speeds = values([*history, record], "tokens_per_second")
        before, now = speeds[: -self.lines][-self.window :], speeds[-self.lines :]
        if not is_number(record.get("tokens_per_second")) or len(before) < self.least:
            return None
        usual, slow = median(before), [*history, record][-self.lines - 1 :]
        took = (slow[-1]["step"] - slow[0]["step"]) * median(values(slow, "step_time") or [0.0])
        if max(now) >= self.share * usual or took < self.seconds:
            return None
        return f"{now[-1]:.4g} tokens per second, where {usual:.4g} are usual: the last {self.lines} lines are all slow"


@dataclass(frozen=True)
class Straggler:
    """One process holds the others up: its host's time per step exceeds theirs by a share of the step."""

    share: float = 0.2

    def check(self, record: Record, history: Sequence[Record]) -> str | None:
        lag, step = record.get("slowest_process_lag"), record.get("step_time")
        if not (is_number(lag) and is_number(step)) or lag <= self.share * step:
            return None
        return f"process {record.get('slowest_process')} is {lag:.3g} s per step behind the others"


@dataclass(frozen=True)
class DiskLow:
    """Little space is left where the run writes."""

    gib: float = 5.0

    def check(self, record: Record, history: Sequence[Record]) -> str | None:
        free = record.get("disk_free_gib")
        if not is_number(free) or free >= self.gib:
            return None
        return f"{free:.3g} GiB are free where the run writes"


DEFAULT = (LossSpike(), NonFinite(), Stall(), ThroughputDrop(), Straggler(), DiskLow())


def values(records: Sequence[Record], name: str) -> list[float]:
    """A metric where it is present and finite."""
    return [r[name] for r in records if is_number(r.get(name))]


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether a value of a record is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
