"""Writers besides metrics.jsonl: TensorBoard and Weights & Biases. A run that goes on stays one curve in both."""

from __future__ import annotations

import importlib
import importlib.util
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from jaxpo.errors import ConfigError
from jaxpo.train.files import write_atomic


class Tracker(Protocol):
    """A writer besides metrics.jsonl."""

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Take one line's numbers."""

    def truncate(self, stage: str, step: int, reached: int) -> None:
        """The stage goes on from `step`; lines up to step `reached` were written before."""

    def close(self) -> None:
        """Write out what is held."""


def require_trackers(report_to: Sequence[str]) -> None:
    """ConfigError for every tracker that is unknown or not installed."""
    problems = []
    for name in report_to:
        if name not in TRACKERS:
            problems.append(f"report_to: {name!r} is unknown; there are 'tensorboard' and 'wandb'")
        elif importlib.util.find_spec(name) is None:
            problems.append(f"report_to: {name} is not installed; install it with `pip install 'jaxpo[trackers]'`")
    if problems:
        raise ConfigError(problems)


class TensorBoard:
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

    def truncate(self, stage: str, step: int, reached: int) -> None:
        # Readers drop what earlier files hold from this step on.
        log = importlib.import_module("tensorboard.compat.proto.event_pb2").SessionLog
        self._event(stage, step + 1, session_log=log(status=log.START))

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


class WeightsAndBiases:
    """One W&B run; each stage has its own step axis `STAGE/step`.

    What W&B has received cannot be taken back there, so steps that are taken again are not sent a second time.
    """

    def __init__(self, directory: Path, run_name: str, config: Mapping[str, Any]):
        wandb = importlib.import_module("wandb")
        stored = directory / "wandb_id.txt"
        name = stored.read_text(encoding="utf-8").strip() if stored.exists() else uuid.uuid4().hex[:12]
        write_atomic(stored, f"{name}\n")
        self._run = wandb.init(
            project="jaxpo", name=run_name, id=name, resume="allow", dir=str(directory), config=dict(config)
        )
        self._stages: set[str] = set()
        self._sent: dict[str, int] = {}

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        # A line of the last step that was sent is sent again: a kill may have come between the lines of one step.
        if step < self._sent.get(stage, 0):
            return
        if stage not in self._stages:
            self._stages.add(stage)
            self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
        self._run.log({f"{stage}/{k}": v for k, v in values.items()} | {f"{stage}/step": step})

    def truncate(self, stage: str, step: int, reached: int) -> None:
        # Online the service says what has arrived there; offline it knows nothing of earlier starts.
        arrived = self._run.summary.get(f"{stage}/step")
        self._sent[stage] = reached if arrived is None else int(arrived)

    def close(self) -> None:
        self._run.finish()


TRACKERS: Mapping[str, Callable[[Path, str, Mapping[str, Any]], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
}
