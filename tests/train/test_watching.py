"""`fit` under watch: time and steps over several starts, alerts, and the times of two real processes."""

import json
from pathlib import Path

import jax
import pytest
from stages.process import finish_all, places, start_program
from train import toy_training as toy

from jaxpo.config import NonFinite
from jaxpo.errors import NonFiniteError
from jaxpo.evaluate.report import write_report
from jaxpo.train.alarms import ALERTS, Alarms
from jaxpo.train.goodput import STARTS, summary
from jaxpo.train.ledger import Ledger
from jaxpo.train.metrics import read_metrics
from jaxpo.train.watching import Watching

PROGRAM = Path(__file__).with_name("watched_training.py")


class Killed(Exception):
    pass


def train(folder, steps, dies_at=None, **changes):
    def step(state, frozen, batch):
        if int(state.step) + 1 == dies_at:
            raise Killed
        return toy.step(state, frozen, batch)

    with (
        Ledger(folder / STARTS) as ledger,
        Alarms(folder, "toy", (NonFinite(),), (), lambda text: None) as alarms,
    ):
        toy.train(folder, steps, step=step, watching=Watching(ledger, alarms), **changes)


def test_starts_of_one_run_are_one_account(tmp_path):
    """Dead in step 8 after the save at 6; then to the end. Its times add up to the starts', and step 7 counts once."""
    jax.clear_caches()  # a step that another test has compiled already would cost no time
    with pytest.raises(Killed):
        train(tmp_path, 11, dies_at=8)
    train(tmp_path, 11)
    first, second = json.loads((tmp_path / STARTS).read_text())["starts"]
    assert (first["ended"], second["ended"]) == ("failed", "finished")
    # The metrics of a step are read after the next one was dispatched: that step 7 ended was not known.
    assert [s["stages"]["toy"]["reached"] for s in (first, second)] == [6, 11]
    found = summary([first, second])
    for start in (first, second):
        spent = sum(sum(of["seconds"].values()) for of in start["stages"].values())
        assert spent == pytest.approx(start["seen"] - start["began"], abs=0.5)
    parts = found["stages"]["toy"]["parts"]
    assert {"step", "data", "eval", "save", "other", "compile"} <= set(parts)
    assert "again" not in parts
    lines = [r for r in read_metrics(tmp_path / "metrics.jsonl") if "goodput" in r]
    assert [r["step"] for r in lines] == [2, 4, 6, 8, 10, 11]
    assert all(0 < r["goodput"] < 1 and r["step_time"] <= r["step_time_max"] for r in lines)
    assert all(r["host_memory_peak_gib"] > 0.05 and r["disk_free_gib"] > 0 for r in lines)
    assert not any("slowest_process" in r for r in lines)


def test_a_step_that_is_not_finite_is_an_alert_before_the_run_ends(tmp_path):
    with pytest.raises(NonFiniteError):
        train(tmp_path, 6, source=toy.Source(bad=3))
    [alert] = [json.loads(line) for line in (tmp_path / ALERTS).read_text().splitlines()]
    assert (alert["stage"], alert["step"], alert["rule"]) == ("toy", 3, "NonFinite")
    assert alert["message"].startswith("loss, grad_norm: not finite")


@pytest.mark.scale
def test_of_two_processes_the_one_whose_data_are_late_is_named(tmp_path):
    """Process 1 waits 0.25 s for each batch, process 0 does not: in metrics.jsonl, an alert, and the report."""
    delays = zip(places(2), (0, 0.25), strict=True)
    codes, outputs = finish_all(
        [start_program(PROGRAM, tmp_path, 8, delay, devices=2, environ=place) for place, delay in delays]
    )
    assert codes == [0, 0], outputs
    records = [r for r in read_metrics(tmp_path / "metrics.jsonl") if "slowest_process" in r]
    assert [r["step"] for r in records] == [4, 6, 8]
    assert {r["slowest_process"] for r in records} == {1}
    assert all(0.15 < r["slowest_process_lag"] < 2 for r in records)
    assert "process 1 is" in (tmp_path / ALERTS).read_text()
    [start] = json.loads((tmp_path / STARTS).read_text())["starts"]
    said = start["stages"]["toy"]["processes"]
    assert [s["steps"] for s in said] == [8, 8]
    assert said[1]["seconds"]["data"] > said[0]["seconds"]["data"] + 8 * 0.2
    page = write_report(tmp_path).read_text()
    rows = page[page.index("Processes: toy") :]
    assert rows.index('<td class="name">1 (') < rows.index('<td class="name">0 (')
