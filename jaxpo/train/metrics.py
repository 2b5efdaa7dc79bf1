"""metrics.jsonl, one line per logged step, which is handed on to the trackers and to Prometheus."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from jaxpo.config import Prometheus
from jaxpo.errors import RunError, writing
from jaxpo.train.clock import NAMES as SHARES
from jaxpo.train.files import write_atomic
from jaxpo.train.prometheus import Exporter
from jaxpo.train.trackers import TRACKERS, Tracker, require_trackers

Record = Mapping[str, Any]
TIMING = (
    "step_time",
    "data_time",
    "tokens_per_second",
    "trained_tokens_per_second",
    "tokens_per_second_per_device",
    "samples_per_second",
    "tflops",
    "mfu",
    *SHARES,
    "step_time_max",
    "goodput",
    "slowest_process",
    "slowest_process_lag",
    "memory_peak_gib",
    "host_memory_peak_gib",
    "disk_free_gib",
    "compile_time",
    "recompiles",
    "train_runtime",
    "train_samples_per_second",
    "train_steps_per_second",
    "eval_runtime",
    "rollouts/writing_seconds",
    "rollouts/rewards_seconds",
    "rollouts/reading_seconds",
)
"""Names of metrics that measure the machine: all others are the same when a run is repeated or resumed."""
SUMMARY = "train_runtime"
"""Stands in the line that sums up a stage, its last."""


class MetricsLog:
    """Appends records to a JSON-lines file and passes them on to trackers.

    Args:
      path: `metrics.jsonl`; kept when it exists.
      report_to: "tensorboard", "wandb"; ConfigError naming the extra when one is not installed.
      run_name, config: for Weights & Biases.
      prometheus: where the newest values are offered, if anywhere.
      primary: False on all processes but one: nothing is written.
    """

    def __init__(
        self,
        path: Path | str,
        report_to: Sequence[str] = (),
        *,
        run_name: str = "run",
        config: Mapping[str, Any] | None = None,
        prometheus: Prometheus | None = None,
        primary: bool = True,
    ):
        self.path = Path(path)
        self.primary = primary
        require_trackers(report_to)
        self._trackers: list[Tracker] = []
        if not primary:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._drop_half_line()
        self._open()
        for name in report_to:
            self._trackers.append(TRACKERS[name](self.path.parent, run_name, dict(config or {})))
        if prometheus is not None and (prometheus.folder or prometheus.port is not None):
            self._trackers.append(Exporter(prometheus, run_name))

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, record: Record) -> None:
        """Append `{"stage", "step", ...}` as one flushed line; non-finite numbers become null, which JSON can hold."""
        if not self.primary:
            return
        clean = {k: _finite(v) for k, v in record.items()}
        line = f"{json.dumps(clean, allow_nan=False)}\n".encode()
        with writing(self.path):
            while line:
                line = line[self._file.write(line) :]
        numbers = {k: v for k, v in clean.items() if k != "step" and isinstance(v, int | float)}
        for tracker in self._trackers:
            tracker.write(record["stage"], record["step"], numbers)

    def truncate(self, stage: str, step: int, *, ended: bool = True) -> None:
        """Forget the lines of `stage` beyond `step`: the run goes on from there.

        Args:
          ended: whether the stage ends at that step; else what sums it up goes too, written when it was to end there.
        """
        if not self.primary:
            return
        self._file.close()
        lines = self.path.read_bytes().splitlines()
        records = [self._record(line, n) for n, line in enumerate(lines, 1)]
        kept = [line for line, r in zip(lines, records, strict=True) if not _beyond(r, stage, step, ended)]
        reached = max((r["step"] for r in records if r["stage"] == stage), default=step)
        write_atomic(self.path, "".join(f"{line.decode()}\n" for line in kept))
        self._open()
        for tracker in self._trackers:
            tracker.truncate(stage, step, reached)

    def records(self, stage: str) -> list[dict[str, Any]]:
        """The lines of a stage so far; of a process that writes none, none."""
        return [r for r in read_metrics(self.path) if r["stage"] == stage] if self.primary else []

    def close(self) -> None:
        """Close the file and the trackers."""
        if not self.primary:
            return
        self._file.close()
        while self._trackers:
            self._trackers.pop().close()

    def _open(self) -> None:
        # Unbuffered: a line that failed (disk full) must not be tried again when the file is closed.
        self._file = self.path.open("ab", buffering=0)

    def _record(self, line: bytes, n: int) -> Record:
        """What a line holds; RunError where it is none of ours."""
        with contextlib.suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict) and {"stage", "step"} <= found.keys():
                return found
        raise RunError(f"{self.path}: line {n} is no record of a step: remove that line, and the run goes on.")

    def _drop_half_line(self) -> None:
        if not self.path.exists():
            return
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if whole != data:
            write_atomic(self.path, whole.decode("utf-8"))


def read_metrics(path: Path | str) -> list[dict[str, Any]]:
    """All complete records of a metrics file."""
    text = Path(path).read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _beyond(record: Record, stage: str, step: int, ended: bool) -> bool:
    sums_up = SUMMARY in record and not ended
    return bool(record["stage"] == stage and (record["step"] > step or sums_up))
