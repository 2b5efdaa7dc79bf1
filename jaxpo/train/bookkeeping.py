"""The loop's bookkeeping: metrics of a finished step, log lines, evaluation, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from jaxpo.checkpoint.store import CHECKPOINTS, CheckpointStore
from jaxpo.config import Stage
from jaxpo.data.source import Source, StepBatch
from jaxpo.errors import ConfigError, NonFiniteError
from jaxpo.objectives.families.groups import BY_GROUP
from jaxpo.train.clock import Ceiling, Clock
from jaxpo.train.console import Console
from jaxpo.train.dump import dump_batch
from jaxpo.train.metrics import SUMMARY, MetricsLog
from jaxpo.train.peaks import disk_free, memory_peaks
from jaxpo.train.processes import Exchange
from jaxpo.train.progress import Progress, Window
from jaxpo.train.state import State
from jaxpo.train.watch import CompileWatch
from jaxpo.train.watching import Watching

Evaluate = Callable[[State], Mapping[str, float]]


@dataclass
class Pending:
    """A step that was dispatched and whose metrics have not been read."""

    step: int
    rows_before: int
    rows_after: int
    batch: StepBatch
    metrics: dict[str, Any]
    counts: Any


@dataclass
class Bookkeeping:
    """Bookkeeping between steps: reading metrics, log lines, evaluation, saving."""

    stage: Stage
    total_steps: int
    source: Source
    log: MetricsLog
    console: Console
    progress: Progress
    dump_dir: Path
    stop_on_nonfinite: bool
    ceiling: Ceiling
    watch: CompileWatch
    snapshot: Callable[[int, State], None] | None = None
    watching: Watching = field(default_factory=Watching)

    def __post_init__(self) -> None:
        self.clock = self._new_clock()
        self.exchange = Exchange(self.stage.name, self.watching.ledger)
        self.watching.alarms.begin(self.log.records(self.stage.name))
        self.steps = 0
        self.began = time.perf_counter()
        self.compile_time: float | None = None
        self.recompiles = 0

    def _new_clock(self) -> Clock:
        return Clock(lambda: self.watch.seconds, within=self.watching.ledger.during)

    def note_compilation(self, n: int, first: int, before: int) -> None:
        """Tell the first compilation from one that should not have happened."""
        if n == first + 1:
            self.compile_time = self.watch.seconds
            self.console.compiled(self.compile_time)
        elif n > first + 2 and self.watch.compilations > before:
            self.recompiles += 1
            self.console.warn(f"the step was compiled again at step {n}: a shape, dtype or sharding changed")

    def read(self, pending: Pending) -> None:
        """Fetch a step's metrics (waits for that step), stop on non-finite values, write the log line when due."""
        with self.clock.during("step"):
            metrics, counts = jax.device_get((pending.metrics, pending.counts))
        if "skipped" in metrics and float(metrics["skipped"].total) > 0:
            self._nonfinite(pending, metrics)
            metrics = {k: m for k, m in metrics.items() if all(map(math.isfinite, jax.tree.leaves(m)))}
        self.progress.window.add(metrics)
        if "loss" in metrics:
            self.progress.total.add({"loss": metrics["loss"]})
        self.progress.num_tokens += int(counts["tokens"])
        self.progress.samples += int(counts["samples"])
        self.clock.step_ended(int(counts["tokens"]), int(counts["trained"]), int(counts["samples"]))
        self.steps += 1
        self.watching.ledger.took(self.stage.name, pending.step)
        if pending.step % self.stage.logging_steps == 0 or pending.step == self.total_steps:
            self._log_line(pending)

    def boundary(
        self,
        n: int,
        rows: int,
        state: State,
        evaluate: Evaluate | None,
        store: CheckpointStore,
        meta: Mapping[str, Any],
        stopping: bool,
    ) -> None:
        """After a step whose metrics were read: evaluate, keep a snapshot, close the books, save, as is due."""
        last = n == self.total_steps
        wanted = evaluate is not None and (last or due(n, self.stage.eval_steps))
        # A signal leaves little time: the resumed run evaluates first.
        self.progress.eval_due = wanted and stopping and not last
        best = False
        if evaluate is not None and wanted and not self.progress.eval_due:
            best = self.evaluate(n, rows, evaluate, state)
        if self.snapshot is not None and due(n, self.stage.snapshot_steps):
            with self.clock.during("save"):
                self.snapshot(n, state)
        if last:
            self._summary(n, rows)
        if last or stopping or best or due(n, self.stage.save_steps):
            with self.clock.during("save"):
                self._save(n, rows, state, store, meta, best)
                self.watching.ledger.keep(now=True)

    def _save(
        self, n: int, rows: int, state: State, store: CheckpointStore, meta: Mapping[str, Any], best: bool
    ) -> None:
        runtime = self.progress.runtime + time.perf_counter() - self.began
        progress = self.progress.to_json() | {"runtime": runtime}
        position = {"step": n, "rows_seen": rows, "num_tokens": self.progress.num_tokens}
        store.save(n, state, {**meta, **position, "best": self.progress.best, "progress": progress})
        # Only now: until the new best is on disk the old one stays protected.
        store.wait() if best else None
        store.protect(self.progress.best.get("step"))

    def _log_line(self, pending: Pending) -> None:
        extra = {"compile_time": self.compile_time} if self.compile_time is not None else {}
        if self.recompiles:
            extra["recompiles"] = self.recompiles
        record = self._head(pending.step, pending.rows_after) | self.progress.window.values()
        ledger, last = self.watching.ledger, pending.step == self.total_steps
        record |= self.clock.rates(self.ceiling, jax.device_count()) | {"goodput": ledger.goodput()}
        record |= memory_peaks() | self.exchange.tell(self.steps, last=last) | extra
        record |= self.source.figures_of(pending.rows_after)
        if self.log.primary:
            record |= disk_free(self.log.path.parent)
        self._write(record)
        ledger.keep()
        self.progress.window, self.clock, self.compile_time = Window(), self._new_clock(), None

    def _write(self, record: Mapping[str, Any]) -> None:
        self.log.write(record)
        self.console.record(record)
        self.watching.alarms.see(record)

    def evaluate(self, n: int, rows: int, evaluate: Evaluate, state: State) -> bool:
        """Evaluate and log; True when the result is the best so far."""
        began = time.perf_counter()
        with self.clock.during("eval"):
            found = {k: float(v) for k, v in evaluate(state).items()}
        named = {k if k.startswith("eval_") else f"eval_{k}": v for k, v in found.items()}
        self._write(self._head(n, rows) | named | {"eval_runtime": time.perf_counter() - began})
        if (line := worst_group(found)) is not None:
            self.console.say(line)
        wanted = self.stage.metric_for_best_model
        if wanted is None:
            return False
        wanted = wanted if wanted.startswith("eval_") else f"eval_{wanted}"
        if wanted not in named:
            raise ConfigError(
                f"stage {self.stage.name}: metric_for_best_model {self.stage.metric_for_best_model!r} is not measured; "
                f"there are {', '.join(sorted(named))}"
            )
        return self.progress.improves(wanted, named[wanted], n)

    def _summary(self, n: int, rows: int) -> None:
        runtime = self.progress.runtime + time.perf_counter() - self.began
        record = self._head(n, rows) | {
            SUMMARY: runtime,
            "train_samples_per_second": self.progress.samples / runtime,
            "train_steps_per_second": n / runtime,
        }
        record |= {f"train_{k}": v for k, v in self.progress.total.values().items()}
        self.log.write(record)
        loss = f"train_loss {record['train_loss']:.4f}, " if "train_loss" in record else ""
        self.console.say(f"{self.stage.name}: {n} steps in {runtime:.1f} s, {loss}{self.progress.num_tokens} tokens")

    def _head(self, n: int, rows: int) -> dict[str, Any]:
        epoch = self.source.epoch_of(rows)
        return {"stage": self.stage.name, "step": n, "epoch": epoch, "num_tokens": self.progress.num_tokens}

    def _nonfinite(self, pending: Pending, metrics: Mapping[str, Any]) -> None:
        shown = {k: float(metrics[k].value()) for k in ("loss", "grad_norm", "learning_rate")}
        what = ", ".join(f"{k} {v:g}" for k, v in shown.items())
        where = f"stage {self.stage.name}, step {pending.step}: {what}"
        if not self.stop_on_nonfinite:
            self.console.warn(f"{where}; the update was skipped")
            return
        self.watching.alarms.see(self._head(pending.step, pending.rows_after) | shown)
        name = f"{self.stage.name}-step{pending.step:08d}-process{jax.process_index()}.npz"
        path = self.dump_dir / name
        info = {"stage": self.stage.name, "step": pending.step, "rows_seen": pending.rows_before}
        dump_batch(path, pending.batch, {**info, "metrics": {k: str(v) for k, v in shown.items()}})
        raise NonFiniteError(
            f"{where}. The update was not applied; the batch is in {path} (jaxpo.train.dump.load_dump reads it). "
            "Usual causes: a learning rate that is too high, bfloat16 where float32 is needed, or a row that is wrong. "
            f"{way_on(self.stage.name, self.dump_dir)}"
        )


def way_on(stage: str, folder: Path) -> str:
    """How a stage goes on that cannot go on as it is: from its last checkpoint, in a run of its own."""
    store = CheckpointStore(folder / CHECKPOINTS)
    latest = store.latest()
    start = "" if latest is None else f" --{stage}.init_from {store.path(latest)}"
    where = "over" if latest is None else f"on from the weights of step {latest}"
    mended = "a lower optimizer.learning_rate or optimizer.max_grad_norm, or with mended rows"
    return f"Go {where} with {mended}: --run NEW{start}"


def due(n: int, every: int) -> bool:
    return every > 0 and n % every == 0


def worst_group(found: Mapping[str, float]) -> str | None:
    """A line that names the group with the smallest accuracy; None where rows have no groups."""
    groups = {name.removeprefix(BY_GROUP): value for name, value in found.items() if name.startswith(BY_GROUP)}
    if not groups:
        return None
    name = min(groups, key=lambda group: groups[group])
    return f"worst of {len(groups)} groups: {name}, accuracy {groups[name]:.3f}"
