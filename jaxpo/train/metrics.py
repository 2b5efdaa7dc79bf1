"""metrics.jsonl, one line per logged step, and the optional TensorBoard and Weights & Biases writers."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import math
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from jaxpo.errors import ConfigError, RunError, writing
from jaxpo.train.clock import NAMES as SHARES
from jaxpo.train.files import write_atomic

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
    "memory_peak_gib",
    "compile_time",
    "recompiles",
    "train_runtime",
    "train_samples_per_second",
    "train_steps_per_second",
    "eval_runtime",
)
"""Names of metrics that measure the machine: all others are the same when a run is repeated or resumed."""
SUMMARY = "train_runtime"
"""Stands in the line that sums up a stage, its last."""


class Tracker(Protocol):
    """A writer besides metrics.jsonl."""

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None: ...
    def truncate(self, stage: str, step: int) -> None: ...
    def close(self) -> None: ...


class MetricsLog:
    """Appends records to a JSON-lines file and passes them on to trackers.

    Args:
      path: `metrics.jsonl`; kept when it exists.
      report_to: "tensorboard", "wandb"; ConfigError naming the extra when one is not installed.
      run_name, config: for Weights & Biases.
      primary: False on all processes but one: nothing is written.
    """

    def __init__(
        self,
        path: Path | str,
        report_to: Sequence[str] = (),
        *,
        run_name: str = "run",
        config: Mapping[str, Any] | None = None,
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
            maker = _TensorBoard if name == "tensorboard" else _WeightsAndBiases
            self._trackers.append(maker(self.path.parent, run_name, dict(config or {})))

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
        kept = [line for n, line in enumerate(lines, 1) if not _beyond(self._record(line, n), stage, step, ended)]
        write_atomic(self.path, "".join(f"{line.decode()}\n" for line in kept))
        self._open()
        for tracker in self._trackers:
            tracker.truncate(stage, step)

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


def require_trackers(report_to: Sequence[str]) -> None:
    """ConfigError for every tracker that is unknown or not installed."""
    problems = []
    for name in report_to:
        if name not in ("tensorboard", "wandb"):
            problems.append(f"report_to: {name!r} is unknown; there are 'tensorboard' and 'wandb'")
        elif importlib.util.find_spec(name) is None:
            problems.append(f"report_to: {name} is not installed; install it with `pip install 'jaxpo[trackers]'`")
    if problems:
        raise ConfigError(problems)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _beyond(record: Record, stage: str, step: int, ended: bool) -> bool:
    sums_up = SUMMARY in record and not ended
    return bool(record["stage"] == stage and (record["step"] > step or sums_up))


class _TensorBoard:
    """One event directory per stage, so that a restart can void the steps of one stage alone."""

    def __init__(self, directory: Path, run_name: str, config: Mapping[str, Any]):
        self._directory = directory / "tensorboard"
        self._writers: dict[str, Any] = {}

    def _writer(self, stage: str) -> Any:
        if stage not in self._writers:
            module = importlib.import_module("tensorboard.summary.writer.event_file_writer")
            self._writers[stage] = module.EventFileWriter(str(self._directory / stage))
        return self._writers[stage]

    def _event(self, stage: str, step: int, **fields: Any) -> None:
        event = importlib.import_module("tensorboard.compat.proto.event_pb2").Event
        self._writer(stage).add_event(event(wall_time=time.time(), step=step, **fields))

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        summary = importlib.import_module("tensorboard.compat.proto.summary_pb2").Summary
        scalars = [summary.Value(tag=k, simple_value=v) for k, v in values.items()]
        self._event(stage, step, summary=summary(value=scalars))

    def truncate(self, stage: str, step: int) -> None:
        log = importlib.import_module("tensorboard.compat.proto.event_pb2").SessionLog
        self._event(stage, step + 1, session_log=log(status=log.START))

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


class _WeightsAndBiases:
    """One W&B run; each stage has its own step axis `STAGE/step`. What W&B received already stays there on a resume."""

    def __init__(self, directory: Path, run_name: str, config: Mapping[str, Any]):
        wandb = importlib.import_module("wandb")
        stored = directory / "wandb_id.txt"
        name = stored.read_text(encoding="utf-8").strip() if stored.exists() else uuid.uuid4().hex[:12]
        write_atomic(stored, f"{name}\n")
        self._run = wandb.init(
            project="jaxpo", name=run_name, id=name, resume="allow", dir=str(directory), config=dict(config)
        )
        self._stages: set[str] = set()

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        if stage not in self._stages:
            self._stages.add(stage)
            self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
        self._run.log({f"{stage}/{k}": v for k, v in values.items()} | {f"{stage}/step": step})

    def truncate(self, stage: str, step: int) -> None:
        self._run.log({f"{stage}/resumed_at": step})

    def close(self) -> None:
        self._run.finish()
