"""`fit`: resume, log lines, boundaries, non-finite steps, and that it never waits for the step just dispatched."""

import json
import types
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from train import toy_training as toy

from jaxpo.checkpoint.store import CheckpointStore
from jaxpo.config import Pretrain
from jaxpo.errors import ConfigError, DataError, NonFiniteError
from jaxpo.train.clock import NAMES as SHARES
from jaxpo.train.clock import Ceiling
from jaxpo.train.dump import load_dump
from jaxpo.train.loop import _contradiction, best_state
from jaxpo.train.metrics import TIMING, read_metrics
from jaxpo.train.signals import Preempted, Stop


def leaves(state):
    state = jax.tree.map(
        lambda x: jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x, state
    )
    return [np.asarray(x) for x in jax.tree.leaves(state)]


def assert_bitwise(a, b):
    for x, y in zip(leaves(a), leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x.view(np.uint8) if x.ndim else x, y.view(np.uint8) if y.ndim else y)


def untimed(path):
    return [{k: v for k, v in r.items() if k not in TIMING} for r in read_metrics(path)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run of 11 steps: `(state, metrics without timings)`."""
    directory = tmp_path_factory.mktemp("whole")
    state = toy.train(directory, 11)
    return state, untimed(directory / "metrics.jsonl")


@pytest.mark.parametrize("at", [5, 8, 11])
def test_resume_equals_uninterrupted_bitwise(whole, tmp_path, at):
    """Stopped inside a log window and between saves (5), where an evaluation is due (8), at the end (11): the same."""

    class After(Stop):
        def requested(self, step):
            self.signum = 15 if step == at else None
            return self.signum

    with pytest.raises(Preempted, match=f"stopped by SIGTERM at step {at} of stage toy, saved") as info:
        toy.train(tmp_path, 11, stop=After())
    assert info.value.exit_code == 143
    state = toy.train(tmp_path, 11)
    assert_bitwise(state, whole[0])
    assert untimed(tmp_path / "metrics.jsonl") == whole[1]


def test_snapshots_are_taken_every_n_steps_and_again_after_a_resume(whole, tmp_path):
    """Every third step; stopped at step 8, after the save at 5, the snapshot of step 6 is taken twice, and equally."""
    taken = []
    stage = Pretrain(name="toy", rows_per_step=toy.ROWS, save_steps=5, snapshot_steps=3)

    def snapshot(n, state):
        taken.append((n, np.asarray(state.params["model"]["w"])))

    class Killed(Exception):
        pass

    def killed(state, frozen, batch):
        if int(state.step) == 8:
            raise Killed
        return toy.step(state, frozen, batch)

    with pytest.raises(Killed):
        toy.train(tmp_path, 11, stage=stage, snapshot=snapshot, step=killed)
    state = toy.train(tmp_path, 11, stage=stage, snapshot=snapshot)
    assert [n for n, _ in taken] == [3, 6, 6, 9]
    np.testing.assert_array_equal(taken[1][1], taken[2][1])
    assert (taken[3][1] != taken[2][1]).any()
    assert_bitwise(state, whole[0])


def test_finished_stage_is_restored_without_training(whole, tmp_path):
    toy.train(tmp_path, 11)
    before = (tmp_path / "metrics.jsonl").read_text()

    def fail(*_):
        raise AssertionError("a finished stage trained")

    state = toy.train(tmp_path, 11, step=fail, init=fail)
    assert_bitwise(state, whole[0])
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_log_lines(whole):
    """Which lines there are, TRL's names, cumulative tokens, and window means against a plain recomputation."""
    lines = whole[1]
    trained = [r for r in lines if "loss" in r]
    assert [r["step"] for r in trained] == [2, 4, 6, 8, 10, 11]
    assert [r["step"] for r in lines if "eval_loss" in r] == [4, 8, 11]
    assert [r["step"] for r in lines if "train_loss" in r] == [11]
    assert {"stage", "step", "epoch", "num_tokens", "loss", "grad_norm", "learning_rate", "skipped"} <= set(trained[0])
    assert "nothing" not in trained[0]

    state, totals, counts, norms, tokens = toy.init(), [], [], [], []
    for i in range(11):
        batch = toy.batch_at(i * toy.ROWS)
        tokens.append(int((batch.segment_ids > 0).sum()))
        state, metrics = toy.step(state, {}, batch)
        totals.append(float(metrics["loss"].total))
        counts.append(float(metrics["loss"].count))
        norms.append(float(metrics["max_reward"].x))
    for n, record in zip([2, 4, 6, 8, 10, 11], trained, strict=True):
        window = slice(n - 2 if n < 11 else 10, n)
        assert record["num_tokens"] == sum(tokens[:n])
        assert record["epoch"] == n * toy.ROWS / 80
        np.testing.assert_allclose(record["loss"], sum(totals[window]) / sum(counts[window]), rtol=1e-6)
        np.testing.assert_allclose(record["max_reward"], max(norms[window]), rtol=1e-6)
        np.testing.assert_allclose(record["min_reward"], min(norms[window]), rtol=1e-6)
        np.testing.assert_allclose(record["learning_rate"], 1e-2 / n, rtol=1e-6)
    np.testing.assert_allclose(lines[-1]["train_loss"], sum(totals) / sum(counts), rtol=1e-6)


def test_timing_metrics_are_there(tmp_path):
    fresh = jax.jit(lambda *x: toy.raw_step(*x), donate_argnums=0)
    toy.train(tmp_path, 4, step=fresh, ceiling=Ceiling(flops_per_token=1e6, peak=1e9))
    first, *_, last = read_metrics(tmp_path / "metrics.jsonl")
    assert first["compile_time"] > 0
    assert sum(first[name] for name in SHARES) == pytest.approx(1, abs=1e-12)
    assert all(0 <= first[name] <= 1 for name in SHARES)
    assert first["tokens_per_second_per_device"] == first["tokens_per_second"] / jax.device_count()
    assert first["mfu"] == pytest.approx(first["tokens_per_second"] * 1e6 / (1e9 * jax.device_count()))
    assert first["tflops"] == pytest.approx(first["tokens_per_second"] * 1e6 / 1e12)
    for name in ("step_time", "tokens_per_second", "trained_tokens_per_second", "samples_per_second"):
        assert first[name] > 0
    assert first["trained_tokens_per_second"] < first["tokens_per_second"]
    assert {"train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss"} <= set(last)


class Value:
    """A metric on a fake device: notes when it is fetched."""

    def __init__(self, step, events):
        self.step, self.events = step, events

    def __array__(self, dtype=None, copy=None):
        self.events.append(("read", self.step))
        return np.zeros((), dtype)


def test_a_second_start_finds_all_its_programs(tmp_path):
    """Of the whole loop: whatever holds an id or an address of this process would be compiled anew."""
    events = Counter()
    listen = lambda event, **_: events.update([event.removeprefix("/jax/compilation_cache/")])  # noqa: E731

    def start(name):
        jax.clear_caches()
        events.clear()
        toy.train(tmp_path / name, 4, step=jax.jit(lambda *x: toy.raw_step(*x), donate_argnums=0))
        return events["cache_misses"], events["cache_hits"], events["compile_requests_use_cache"]

    jax.monitoring.register_event_listener(listen)
    try:
        start("first")
        missed, found, asked = start("second")
    finally:
        jax.monitoring.unregister_event_listener(listen)
    assert asked > 1
    assert (missed, found) == (0, asked)
    assert read_metrics(tmp_path / "second" / "metrics.jsonl")[0]["compile_time"] > 0


def test_metrics_of_a_step_are_read_after_the_next_is_dispatched(tmp_path, monkeypatch):
    """The loop never waits for the step just dispatched, except at a boundary (evaluation, save, end).

    Of a step under way nothing is read before the next batch was fetched and its step dispatched: the device computes
    while the host works.
    """
    events = []

    class Noting(toy.Source):
        def at(self, rows_seen, state):
            events.append(("fetch", rows_seen // toy.ROWS + 1))
            return super().at(rows_seen, state)

    def step(state, frozen, batch):
        n = int(state.step) + 1
        events.append(("dispatch", n))
        state, metrics = toy.step(state, frozen, batch)
        return state, metrics | {"probe": toy.Mean(Value(n, events), np.ones(()))}

    real = jax.device_get
    monkeypatch.setattr(
        jax, "device_get", lambda x: jax.tree.map(lambda v: np.asarray(v) if isinstance(v, Value) else real(v), x)
    )
    stage = Pretrain(name="toy", rows_per_step=toy.ROWS, logging_steps=1)
    toy.train(tmp_path, 6, step=step, stage=stage, source=Noting())
    expected = [("fetch", 1), ("dispatch", 1)]
    for n in range(2, 7):
        expected += [("fetch", n), ("dispatch", n), ("read", n - 1)]
    assert events == [*expected, ("read", 6)]


def test_nonfinite_step_stops_and_dumps_the_batch(tmp_path):
    with pytest.raises(
        NonFiniteError, match=r"stage toy, step 5: loss nan.*not applied.*toy-step00000005-process0"
    ) as info:
        toy.train(tmp_path, 11, source=toy.Source(bad=5))
    path = next((tmp_path / "stages" / "toy").glob("*.npz"))
    assert str(path) in str(info.value)
    batch, details = load_dump(path)
    expected = toy.batch_at(4 * toy.ROWS, float("nan"))
    jax.tree.map(np.testing.assert_array_equal, batch, expected)
    assert (batch.block_rows, batch.slots, batch.max_segment) == (1, 1, toy.LENGTH)
    assert details["step"] == 5
    assert details["rows_seen"] == 4 * toy.ROWS
    # The checkpoint before the failure stays usable.
    assert CheckpointStore(tmp_path / "stages" / "toy" / "checkpoints").latest() == 3


def test_nonfinite_step_can_be_skipped(tmp_path, capsys):
    toy.train(tmp_path, 6, source=toy.Source(bad=3), stop_on_nonfinite=False)
    assert "warning: stage toy, step 3: loss nan" in capsys.readouterr().out
    records = {r["step"]: r for r in read_metrics(tmp_path / "metrics.jsonl") if "loss" in r}
    assert records[4]["skipped"] == 0.5
    assert all(np.isfinite(r["loss"]) for r in records.values())


def test_best_checkpoint_is_kept(tmp_path):
    """The best evaluation (step 4) outlives `save_total_limit` = 1."""
    values = iter([3.0, 1.0, 2.0, 2.5])
    stage = Pretrain(name="toy", rows_per_step=toy.ROWS, eval_steps=2, save_total_limit=1, metric_for_best_model="loss")
    seen = []

    def evaluate(state):
        seen.append(leaves(state))
        return {"loss": next(values)}

    last = toy.train(tmp_path, 8, stage=stage, evaluate=evaluate)
    store = CheckpointStore(tmp_path / "stages" / "toy" / "checkpoints", 1)
    assert store.steps() == [4, 8]
    assert store.meta()["best"] == {"metric": "eval_loss", "value": 1.0, "step": 4}
    said = []
    best = best_state(store, toy.abstract(), last, said.append)
    for x, y in zip(leaves(best), seen[1], strict=True):
        np.testing.assert_array_equal(x, y)
    assert said == ["what the stage leaves is step 4, of the best eval_loss: 1"]


def test_best_metric_that_is_not_measured_is_named(tmp_path):
    stage = Pretrain(name="toy", rows_per_step=toy.ROWS, eval_steps=2, metric_for_best_model="f1")
    with pytest.raises(
        ConfigError, match=r"stage toy: metric_for_best_model 'f1' is not measured.*eval_accuracy, eval_loss"
    ):
        toy.train(tmp_path, 4, stage=stage)


def test_checkpoint_meta(tmp_path):
    toy.train(tmp_path, 6)
    meta = CheckpointStore(tmp_path / "stages" / "toy" / "checkpoints").meta()
    tokens = sum(int((toy.batch_at(i * toy.ROWS).segment_ids > 0).sum()) for i in range(6))
    assert meta["config"] == {"a": 1}
    assert (meta["step"], meta["rows_seen"], meta["num_tokens"]) == (6, 48, tokens)
    json.dumps(meta, allow_nan=False)


def test_resume_on_another_mesh_says_so(tmp_path, capsys, whole):
    toy.train(tmp_path, 6, devices=8)
    state = toy.train(tmp_path, 11, devices=1)
    assert "resuming at step 6 of stage toy (11 steps)" in capsys.readouterr().out
    for x, y in zip(leaves(state.params), leaves(whole[0].params), strict=True):
        np.testing.assert_allclose(x.astype(np.float32), y.astype(np.float32), rtol=1e-5, atol=1e-6)


def test_recompilation_is_reported(tmp_path, capsys):
    class Growing(toy.Source):
        def at(self, rows_seen, state):
            batch = super().at(rows_seen, state)
            wide = batch.replace(per_example={"scale": np.ones((toy.ROWS + 1,), np.float32)})
            return wide if rows_seen == 4 * toy.ROWS else batch

    toy.train(tmp_path, 6, source=Growing())
    out = capsys.readouterr().out
    assert out.count("compiled again") == 1
    assert "compiled again at step 5" in out


def test_a_stop_before_the_first_step_does_nothing(tmp_path):
    stop = Stop()
    stop.signum = 2
    with pytest.raises(Preempted, match="before the first step of stage toy: nothing to save yet") as info:
        toy.train(tmp_path, 5, stop=stop)
    assert info.value.exit_code == 130
    assert not (tmp_path / "stages" / "toy" / "checkpoints").exists()


class Late(Stop):
    """A signal comes just after it was asked for, in step 4."""

    def requested(self, step):
        noted, self.signum = self.signum, 15 if step >= 4 else None
        return noted


def test_a_signal_that_comes_after_a_step_was_asked_for_is_heard_at_the_next(tmp_path):
    """What it says to be saved is."""
    with pytest.raises(Preempted, match="at step 5 of stage toy, saved"):
        toy.train(tmp_path, 11, stop=Late())
    assert CheckpointStore(tmp_path / "stages" / "toy" / "checkpoints").latest() == 5


def test_a_signal_that_comes_while_the_last_step_is_saved_ends_the_run_there(tmp_path):
    """Not after everything that follows a stage: the next start goes on with that."""
    with pytest.raises(Preempted, match="at step 4 of stage toy, saved"):
        toy.train(tmp_path, 4, stop=Late())
    assert CheckpointStore(tmp_path / "stages" / "toy" / "checkpoints").latest() == 4
    toy.train(tmp_path, 4)


class Asking(toy.Source):
    """Reads the state that it is given; may fail at a step (counted from 1)."""

    def __init__(self, fails_at=None):
        super().__init__()
        self.fails_at, self.seen = fails_at, []

    def at(self, rows_seen, state):
        self.seen.append((int(state.step), float(state.params["model"]["w"][0, 0])))
        if len(self.seen) == self.fails_at:
            raise DataError("the judge is gone")
        return super().at(rows_seen, state)


def test_the_feed_is_given_the_state_before_its_step_and_is_closed(tmp_path):
    """Donated afterwards, readable then: the parameters of each step's start."""
    source = Asking()
    state, expected = toy.init(), []
    for n in range(4):
        expected.append((n, float(state.params["model"]["w"][0, 0])))
        state, _ = toy.step(state, {}, toy.batch_at(n * toy.ROWS))
    toy.train(tmp_path, 4, source=source)
    assert source.seen == expected
    assert [feed.closed for feed in source.opened] == [1]


def test_an_error_of_the_feed_or_of_the_step_closes_the_feed(tmp_path):
    source = Asking(fails_at=3)
    with pytest.raises(DataError, match="the judge is gone"):
        toy.train(tmp_path, 6, source=source)
    assert [feed.closed for feed in source.opened] == [1]

    def broken(state, frozen, batch):
        raise RuntimeError("no memory")

    source = Asking()
    with pytest.raises(RuntimeError, match="no memory"):
        toy.train(tmp_path, 6, source=source, step=broken)
    assert [feed.closed for feed in source.opened] == [1]


def test_a_state_that_has_counted_beyond_int32_fits_its_description():
    """The device's counter of rows begins anew at 2^31; a checkpoint is not damaged for that."""
    told = 2**31 + 24
    state = types.SimpleNamespace(step=jnp.int32(7), rows_seen=jnp.int32(2**31 - 8) + jnp.int32(32))
    assert int(state.rows_seen) < 0
    assert _contradiction(7, state, {"rows_seen": told}) is None
    assert "rows_seen" in _contradiction(7, state, {"rows_seen": told - 8})
    assert "rows_seen" in _contradiction(7, state, {})
