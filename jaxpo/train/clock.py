"""Where the wall time of the loop goes, and the speed that follows from the rest."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

PARTS = ("data", "step", "eval", "save")
REST = "other"
NAMES = tuple(f"time/{part}" for part in (*PARTS, REST))
"""Shares of wall time without compilation, as metrics; they add up to 1."""


@dataclass(frozen=True)
class Ceiling:
    """What a step computes, and what a device could.

    Attributes:
      flops_per_token: of the training step, see `train.flops`; None leaves out `tflops` and `mfu`.
      peak: dense FLOP/s of one device in the type that it computes in; None leaves out `mfu`.
    """

    flops_per_token: float | None = None
    peak: float | None = None


UNKNOWN = Ceiling()


class Clock:
    """Seconds and work since the last log line.

    Args:
      compiling: seconds of compilation so far; they count towards no part.
      now: the time in seconds.
      within: entered for each part, for whoever counts over more than one window.

    Attributes:
      longest: seconds of the longest step, its compilation and what follows it left out.
    """

    def __init__(
        self,
        compiling: Callable[[], float],
        now: Callable[[], float] = time.perf_counter,
        within: Callable[[str], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self._compiling, self._now, self._within = compiling, now, within
        self._start, self._compiled = now(), compiling()
        self.spent = dict.fromkeys(PARTS, 0.0)
        self.steps = self.tokens = self.trained = self.samples = 0
        self._before = self.longest = 0.0

    @contextmanager
    def during(self, part: str) -> Iterator[None]:
        """What happens inside counts towards `part`, but for compilation."""
        began, compiled = self._now(), self._compiling()
        try:
            with self._within(part):
                yield
        finally:
            self.spent[part] += self._now() - began - (self._compiling() - compiled)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """What happens inside counts towards nothing, the wall time included."""
        began, compiled = self._now(), self._compiling()
        try:
            yield
        finally:
            self._start += self._now() - began - (self._compiling() - compiled)

    def step_ended(self, tokens: int, trained: int, samples: int) -> None:
        """One more step, with what it worked on."""
        self.steps, self.tokens = self.steps + 1, self.tokens + tokens
        self.trained, self.samples = self.trained + trained, self.samples + samples
        busy = self._busy(self._wall())
        self.longest, self._before = max(self.longest, busy - self._before), busy

    def _wall(self) -> float:
        return max(self._now() - self._start - (self._compiling() - self._compiled), 1e-9)

    def _busy(self, wall: float) -> float:
        return max(wall - self.spent["eval"] - self.spent["save"], 1e-9)

    def rates(self, ceiling: Ceiling, devices: int) -> dict[str, float]:
        """Speed without compilation, evaluation and saving; and the share of each part in the time without compilation.

            tflops = flops_per_token tokens / seconds / 1e12        mfu = tflops 1e12 / (devices peak)

        Args:
          devices: of the whole run, over all processes, as are the counts.
        """
        wall = self._wall()
        busy = self._busy(wall)
        speed = self.tokens / busy
        out = {
            "step_time": busy / self.steps,
            "step_time_max": max(self.longest, busy / self.steps),
            "data_time": self.spent["data"] / self.steps,
            "tokens_per_second": speed,
            "trained_tokens_per_second": self.trained / busy,
            "tokens_per_second_per_device": speed / devices,
            "samples_per_second": self.samples / busy,
        }
        if ceiling.flops_per_token is not None:
            done = ceiling.flops_per_token * speed
            out["tflops"] = done / 1e12
            if ceiling.peak is not None:
                out["mfu"] = done / (devices * ceiling.peak)
        return out | self._shares(wall)

    def _shares(self, wall: float) -> dict[str, float]:
        parts = {f"time/{part}": seconds / wall for part, seconds in self.spent.items()}
        return parts | {f"time/{REST}": 1.0 - sum(parts.values())}
