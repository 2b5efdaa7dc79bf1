"""metrics.jsonl: lines, truncation, half lines, null for non-finite numbers; trackers; window sums."""

import importlib.util
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxpo.errors import ConfigError, RunError
from jaxpo.objectives.base import Difference, Max, Mean, Min
from jaxpo.train.metrics import MetricsLog, read_metrics
from jaxpo.train.progress import Progress, Window, lower_is_better


def record(stage, step, **more):
    return {"stage": stage, "step": step, "loss": 1.0 / (step + 1), **more}


def test_truncation_removes_later_lines_of_that_stage_only(tmp_path):
    path = tmp_path / "m.jsonl"
    with MetricsLog(path) as log:
        for stage in ("pretrain", "sft"):
            for step in (1, 2, 3):
                log.write(record(stage, step))
            log.write({"stage": stage, "step": 3, "eval_loss": 1.0})
        log.truncate("sft", 2)
        log.write(record("sft", 3, again=True))
    steps = [(r["stage"], r["step"]) for r in read_metrics(path)]
    assert steps == [
        ("pretrain", 1),
        ("pretrain", 2),
        ("pretrain", 3),
        ("pretrain", 3),
        ("sft", 1),
        ("sft", 2),
        ("sft", 3),
    ]
    assert read_metrics(path)[-1]["again"]


def test_what_sums_up_a_stage_goes_when_the_stage_is_made_longer(tmp_path):
    path = tmp_path / "m.jsonl"
    with MetricsLog(path) as log:
        for stage in ("pretrain", "sft"):
            log.write(record(stage, 3))
            log.write({"stage": stage, "step": 3, "train_runtime": 1.0, "train_loss": 1.0})
        log.truncate("sft", 3)
        assert len(read_metrics(path)) == 4
        log.truncate("sft", 3, ended=False)
    assert [(r["stage"], "train_loss" in r) for r in read_metrics(path)] == [
        ("pretrain", False),
        ("pretrain", True),
        ("sft", False),
    ]


@pytest.mark.parametrize("line", [b"", b"\0\0", b"\xff", b"[1]", b'{"a": 1}', b'"stage"'])
def test_a_line_that_is_no_record_is_named_and_stays(tmp_path, line):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"stage": "sft", "step": 1}\n' + line + b"\n")
    before = path.read_bytes()
    with MetricsLog(path) as log, pytest.raises(RunError, match=r"m\.jsonl: line 2 is no record .* remove that line"):
        log.truncate("sft", 0)
    assert path.read_bytes() == before


@pytest.mark.parametrize("cut", [1, 10, 30])
def test_half_written_last_line_is_dropped(tmp_path, cut):
    path = tmp_path / "m.jsonl"
    with MetricsLog(path) as log:
        log.write(record("sft", 1))
        log.write(record("sft", 2))
    path.write_bytes(path.read_bytes()[:-cut])
    assert [r["step"] for r in read_metrics(path)] == [1]
    with MetricsLog(path) as log:
        log.write(record("sft", 2))
    assert [r["step"] for r in read_metrics(path)] == [1, 2]


def test_every_line_is_on_disk_at_once_and_valid_json(tmp_path):
    path = tmp_path / "m.jsonl"
    with MetricsLog(path) as log:
        log.write(record("sft", 1, grad_norm=math.nan, worst=math.inf))
        line = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))
        assert line["grad_norm"] is None
        assert line["worst"] is None


def test_secondary_process_writes_nothing(tmp_path):
    with MetricsLog(tmp_path / "m.jsonl", primary=False) as log:
        log.write(record("sft", 1))
        log.truncate("sft", 0)
    assert not (tmp_path / "m.jsonl").exists()


def test_absent_or_unknown_tracker_is_a_configuration_error(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as error:
        MetricsLog(tmp_path / "m.jsonl", ("tensorboard", "mlflow"))
    assert error.value.problems == [
        "report_to: tensorboard is not installed; install it with `pip install 'jaxpo[trackers]'`",
        "report_to: 'mlflow' is unknown; there are 'tensorboard' and 'wandb'",
    ]
    assert not (tmp_path / "m.jsonl").exists()


def test_tensorboard_shows_the_resumed_curve(tmp_path):
    """What TensorBoard reads after a truncation: the old steps beyond it are gone."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for steps, value in (((1, 2, 3, 4), 1.0), ((3, 4, 5), 2.0)):
        with MetricsLog(tmp_path / "m.jsonl", ("tensorboard",)) as log:
            if steps[0] > 1:
                log.truncate("sft", steps[0] - 1)
            for step in steps:
                log.write({"stage": "sft", "step": step, "loss": value})
    events = reader.EventAccumulator(str(tmp_path / "tensorboard" / "sft"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0), (5, 2.0)]


def test_wandb_offline_run(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for _ in range(2):
        with MetricsLog(tmp_path / "m.jsonl", ("wandb",), run_name="r", config={"a": 1}) as log:
            log.write(record("sft", 1))
    assert len({p.name.split("-")[-1] for p in (tmp_path / "wandb").glob("offline-run-*")}) == 1


numbers = st.floats(-1e3, 1e3)


@given(st.lists(st.tuples(numbers, st.integers(0, 5)), min_size=1, max_size=8), st.integers(0, 8))
def test_window_survives_json_and_equals_the_whole(entries, cut):
    """Means by total and count, extremes by value, whether or not the sums went through a checkpoint in between."""
    whole, part = Window(), Window()
    for i, (x, count) in enumerate(entries):
        metrics = {"m": Mean(x * count, count), "hi": Max(x), "lo": Min(x), "learning_rate": Mean(x, 1)}
        if i == cut:
            part = Progress.from_json(json.loads(json.dumps(Progress(window=part).to_json()))).window
        whole.add(metrics)
        part.add(metrics)
    assert part.values() == whole.values()
    values, total = whole.values(), sum(c for _, c in entries)
    assert values["hi"] == max(x for x, _ in entries)
    assert values["lo"] == min(x for x, _ in entries)
    assert values["learning_rate"] == entries[-1][0]
    if total:
        np.testing.assert_allclose(values["m"], sum(x * c for x, c in entries) / total, atol=1e-9)
    else:
        assert "m" not in values


def test_a_difference_of_means_is_taken_after_adding_up():
    window = Window()
    for good, bad in ((3.0, 1.0), (5.0, 2.0)):
        window.add({"margin": Difference(Mean(good, 1.0), Mean(2 * bad, 2.0))})
    window.add({"one_sided": Difference(Mean(1.0, 1.0), Mean(0.0, 0.0))})
    again = Progress.from_json(json.loads(json.dumps(Progress(window=window).to_json()))).window
    assert window.values() == again.values() == {"margin": 8.0 / 2 - 6.0 / 4}


def test_window_keeps_infinities_through_json():
    window = Window()
    window.add({"m": Mean(math.inf, 1.0), "hi": Max(-math.inf)})
    text = json.dumps(Progress(window=window).to_json(), allow_nan=False)
    assert Progress.from_json(json.loads(text)).window.values() == window.values()


@pytest.mark.parametrize(
    ("metric", "values", "best"),
    [("eval_loss", [3.0, 1.0, math.nan, 2.0], 1), ("eval_rewards/accuracies", [0.5, 0.7, 0.7, 0.6], 1)],
)
def test_best_by_direction_and_first_of_equals(metric, values, best):
    progress = Progress()
    marks = [progress.improves(metric, v, i) for i, v in enumerate(values)]
    assert progress.best == {"metric": metric, "value": values[best], "step": best}
    assert marks == [True, True, False, False]


def test_direction_of_metrics():
    assert lower_is_better("eval_loss")
    assert lower_is_better("eval_nll_loss")
    assert lower_is_better("eval_bits_per_byte")
    assert not lower_is_better("eval_rewards/accuracies")
    assert not lower_is_better("eval_rewards/margins")
