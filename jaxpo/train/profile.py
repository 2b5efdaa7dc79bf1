"""A profile of some steps: a trace for XProf or TensorBoard, and a table of the operations that took longest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import jax

from jaxpo.train.clock import Clock
from jaxpo.train.files import write_json
from jaxpo.train.profile_range import ProfileRange
from jaxpo.train.trace import costliest, trace_file

OPERATIONS, SHOWN = "operations.json", 20


class Profile:
    """Records the steps of a range while the loop runs; nothing where there is no range.

    Args:
      folder: `plugins/profile/TIME/HOST.xplane.pb` is written below it, and the table beside that; several processes
        have a folder each.
    """

    def __init__(self, wanted: ProfileRange | None, folder: Path, say: Callable[[str], None]):
        self.wanted, self._say = wanted, say
        self.folder = folder / f"process{jax.process_index()}" if jax.process_count() > 1 else folder
        self.recording = False
        self._step: Any = None

    def __enter__(self) -> Profile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """An error or a signal came inside the range: the trace of the steps so far is kept, without a table."""
        if self.recording:
            self._leave_step()
            self.recording = False
            jax.profiler.stop_trace()
            self._say(f"profile: ended before step {self._last}; the trace of the steps so far is in {self.folder}")

    @property
    def _last(self) -> int:
        assert self.wanted is not None
        return self.wanted.last

    def start(self, first: int, total: int) -> None:
        """Before the loop, which begins with step `first`: what of the range cannot be recorded is said."""
        if self.wanted is None:
            return
        asked = f"profile: steps {self.wanted.first}:{self.wanted.last}"
        low, high = max(self.wanted.first, first), min(self.wanted.last, total)
        if low > high:
            why = f"it goes on at step {first}" if self.wanted.last < first else f"it has {total} steps"
            self._say(f"{asked} of the stage are not recorded, as {why}")
            self.wanted = None
        elif (low, high) != (self.wanted.first, self.wanted.last):
            self._say(
                f"{asked} of the stage: {low}:{high} are recorded, as it goes on at step {first} and ends at {total}"
            )
            self.wanted = ProfileRange(low, high, self.wanted.stage)

    def before(self, n: int, state: Any, clock: Clock) -> None:
        """Step n comes next; the first of the range waits for those before it, so that the trace holds none of them."""
        if self.wanted is None or not self.wanted.first <= n <= self.wanted.last:
            return
        if not self.recording:
            with clock.during("step"):
                jax.block_until_ready(state)
            with clock.stopped():
                options = jax.profiler.ProfileOptions()
                options.python_tracer_level = 0  # every Python call would be an event: larger by far, and slower
                jax.profiler.start_trace(str(self.folder), profiler_options=options)
            self.recording = True
        self._step = jax.profiler.StepTraceAnnotation("train", step_num=n)
        self._step.__enter__()

    def after(self, n: int, state: Any, clock: Clock) -> None:
        """Step n was dispatched; the last of the range is waited for."""
        if not self.recording:
            return
        self._leave_step()
        if n == self._last:
            with clock.during("step"):
                jax.block_until_ready(state)
            self.recording = False
            with clock.stopped():
                jax.profiler.stop_trace()
                self._keep_table()

    def _leave_step(self) -> None:
        step, self._step = self._step, None
        if step is not None:
            step.__exit__(None, None, None)

    def _keep_table(self) -> None:
        assert self.wanted is not None
        found = costliest(trace_file(self.folder), SHOWN)
        steps = [self.wanted.first, self.wanted.last]
        write_json(self.folder / OPERATIONS, {"steps": steps, "operations": [o.to_json() for o in found]})
        self._say(f"profile of steps {steps[0]}:{steps[1]}: `xprof --logdir {self.folder}` or TensorBoard opens it")
        for operation in found[:3]:
            what = operation.name or operation.operation
            self._say(f"  {operation.share:.0%} {what} ({operation.place or operation.opcode or 'unknown'})")
