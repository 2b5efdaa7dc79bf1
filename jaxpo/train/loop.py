"""The training loop of every stage. Read `fit` from top to bottom; the rest is its bookkeeping."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from jaxpo.checkpoint.environment import differences, environment
from jaxpo.checkpoint.fallback import restore_newest
from jaxpo.checkpoint.store import CheckpointStore
from jaxpo.config import Stage
from jaxpo.data.source import Source, StepBatch
from jaxpo.errors import CheckpointError
from jaxpo.sharding import settle
from jaxpo.train.bookkeeping import Bookkeeping, Evaluate, Pending, due
from jaxpo.train.clock import UNKNOWN, Ceiling
from jaxpo.train.console import Console
from jaxpo.train.hang import HangWatch
from jaxpo.train.metrics import MetricsLog
from jaxpo.train.profile import Profile
from jaxpo.train.progress import Progress
from jaxpo.train.signals import Preempted, Stop
from jaxpo.train.state import State
from jaxpo.train.watch import CompileWatch
from jaxpo.train.watching import Watching

Tree = Any
Step = Callable[[State, Tree, StepBatch], tuple[State, dict[str, Any]]]


def fit(
    *,
    stage: Stage,
    total_steps: int,
    init: Callable[[], State],
    abstract: State,
    frozen: Tree,
    step: Step,
    evaluate: Evaluate | None,
    source: Source,
    put: Callable[[StepBatch], StepBatch],
    store: CheckpointStore,
    meta: Mapping[str, Any],
    log: MetricsLog,
    console: Console,
    stop: Stop,
    on_nonfinite_dir: Path,
    stop_on_nonfinite: bool = True,
    ceiling: Ceiling = UNKNOWN,
    snapshot: Callable[[int, State], None] | None = None,
    profile: Profile | None = None,
    hang_timeout: float = 0.0,
    hang_exit: bool = False,
    watching: Watching | None = None,
) -> State:
    """Train from the newest checkpoint (or `init()`) to `total_steps`; running it again after any death continues.

    Args:
      abstract: the state's shapes, dtypes and shardings, on which a checkpoint is restored.
      step: compiled `(state, frozen, batch) -> (state, metrics)`, state donated; gates the update on finite values and
        reports `skipped`.
      evaluate: `state -> {name: value}`; names get the prefix `eval_`.
      source: of batches; each is asked for with the state before its step.
      put: host batch -> device batch.
      meta: JSON stored with every checkpoint: resolved configuration, data hash, ...
      on_nonfinite_dir: where the batch of a non-finite step is dumped.
      ceiling: adds `tflops` and `mfu` to the metrics.
      snapshot: `(step, state)`, called every `stage.snapshot_steps` steps; after a resume again for the steps since.
      profile: of some steps.
      hang_timeout, hang_exit: see `Run`.
      watching: counts where the time goes over all starts, and raises alerts.

    Raises:
      Preempted: after saving, when `stop` noted a signal.
      NonFiniteError: naming the dumped batch.
      CheckpointError: a checkpoint could not be read or written.
    """
    state, first, rows, progress = _begin(stage, total_steps, init, abstract, store, log, console)
    watch = CompileWatch()
    run = Bookkeeping(
        stage,
        total_steps,
        source,
        log,
        console,
        progress,
        on_nonfinite_dir,
        stop_on_nonfinite,
        ceiling,
        watch,
        snapshot,
        watching or Watching(),
    )
    if stop.signum is not None:
        raise _left(stage, first, stop.signum)
    profile = profile or Profile(None, on_nonfinite_dir, console.say)
    profile.start(first + 1, total_steps)
    hang = HangWatch(hang_timeout, on_nonfinite_dir, lambda: f"stage {stage.name}, {stop.activity}", ends=hang_exit)
    evaluate = None if evaluate is None else hang.unwatched(evaluate)
    boundaries = (stage.eval_steps, stage.save_steps, stage.snapshot_steps)
    if progress.eval_due and evaluate is not None:
        run.evaluate(first, rows, evaluate, state)
        store.protect(progress.best.get("step"))
    pending: Pending | None = None
    # The feed is closed first, whatever happens: its threads must not outlive the loop.
    with (
        stop.during(f"stage {stage.name}"),
        stop.later(),
        hang,
        _saved(store, console),
        contextlib.closing(source.open(rows, total_steps - first)) as feed,
        watch,
        profile,
        run.watching.ledger.during("other", stage.name),
    ):
        for n in range(first + 1, total_steps + 1):
            stop.activity = f"step {n}" if n > first + 1 else "the compilation of the training step"
            if n > first + 1:
                hang.beat()
            run.watching.ledger.next_step(stage.name, n)
            profile.before(n, state, run.clock)
            with run.clock.during("data"):
                batch = feed.next(state)
                on_device = put(batch)
            with run.clock.during("step"):
                counts = settle(tally(on_device))
                compilations = watch.compilations
                state, metrics = settle(step(state, frozen, on_device))
            profile.after(n, state, run.clock)
            run.note_compilation(n, first, compilations)
            if pending is not None:
                run.read(pending)
            pending = Pending(n, rows, rows + stage.rows_per_step, batch, metrics, counts)
            rows = pending.rows_after
            signum = stop.requested(n)
            if signum or n == total_steps or any(due(n, every) for every in boundaries):
                run.read(pending)
                pending = None
                stop.activity = f"what follows step {n}: evaluation, checkpoint"
                with run.clock.during("data"):
                    feed.settle()
                run.boundary(n, rows, state, evaluate, store, meta, bool(signum))
            console.advance(n)
            if signum:
                store.wait()
                raise _left(stage, n, signum)
    if stop.signum is not None:  # it came while the last step was being saved
        raise _left(stage, total_steps, stop.signum)
    return state


def best_state(store: CheckpointStore, abstract: State, last: State, say: Callable[[str], None]) -> State:
    """The state of the checkpoint that was best on the held-out rows, as the last one remembers."""
    best = store.meta().get("best", {})
    if best.get("step") in (None, store.latest()):
        return last
    say(f"what the stage leaves is step {best['step']}, of the best {best['metric']}: {best['value']:.4g}")
    return store.restore(best["step"], abstract)[0]


@contextlib.contextmanager
def _saved(store: CheckpointStore, console: Console) -> Iterator[None]:
    """A save under way ends before the interpreter does; its failure must not hide an error at hand."""
    try:
        yield
        store.wait()
    except BaseException:
        try:
            store.wait()
        except CheckpointError as failure:
            console.warn(str(failure))
        raise
    finally:
        console.end_stage()


@jax.jit
def tally(batch: StepBatch) -> dict[str, jax.Array]:
    """What the log counts of a batch, over all devices and hosts."""
    return batch.tally()


def _begin(
    stage: Stage,
    total_steps: int,
    init: Callable[[], State],
    abstract: State,
    store: CheckpointStore,
    log: MetricsLog,
    console: Console,
) -> tuple[State, int, int, Progress]:
    """`(state, steps taken, rows seen, progress)` from the newest checkpoint, or from nothing."""
    found = restore_newest(store, abstract, _contradiction, console.say)
    latest = 0 if found is None else found[0]
    store.discard_after(latest)
    log.truncate(stage.name, latest, ended=found is not None and latest == total_steps)
    if found is None:
        console.start_stage(stage.name, 0, total_steps)
        state = init()
        return state, int(state.step), int(state.rows_seen), Progress()
    _, state, stored = found
    progress = Progress.from_json(stored["progress"])
    store.protect(progress.best.get("step"))
    changed = differences(store.environment(latest), environment())
    note = f"; not bit for bit, because it was saved elsewhere: {', '.join(changed)}" if changed else ""
    console.start_stage(stage.name, latest, total_steps, note)
    return state, latest, stored["rows_seen"], progress


def _contradiction(step: int, state: State, stored: Mapping[str, Any]) -> str | None:
    """What a checkpoint says of itself beside its state, where the two do not agree."""
    for name, told in (("step", step), ("rows_seen", stored.get("rows_seen"))):
        # The state counts in int32, which begins anew beyond 2^31 rows; the description does not.
        if not isinstance(told, int) or (int(getattr(state, name)) - told) % 2**32:
            return f"its description says {name} {told}, its state {int(getattr(state, name))}"
    return None


def _left(stage: Stage, n: int, signum: int) -> Preempted:
    """What is said of a stop after step n, which is on disk."""
    name = signal.Signals(signum).name
    if not n:
        return Preempted(f"stopped by {name} before the first step of stage {stage.name}: nothing to save yet", signum)
    return Preempted(f"stopped by {name} at step {n} of stage {stage.name}, saved; the same command resumes", signum)
