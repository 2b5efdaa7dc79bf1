"""What each rule fires at and what it leaves alone; alerts on disk, on the console and at receivers."""

import dataclasses
import http.server
import json
import math
import random
import sys
import threading
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpo.config import DiskLow, LossSpike, NonFinite, Stall, Straggler, ThroughputDrop
from jaxpo.config.alerts import DEFAULT
from jaxpo.errors import ConfigError
from jaxpo.train.alarms import ALERTS, Alarms, Alert
from jaxpo.train.notify import Post, RunCommand


def lines(values, name="loss"):
    return [{"stage": "sft", "step": i, name: v} for i, v in enumerate(values, 1)]


def asked(rule, records):
    """Steps at which a rule says something."""
    return [r["step"] for i, r in enumerate(records) if rule.check(r, records[:i]) is not None]


def noisy(count, seed=0):
    draw = random.Random(seed)
    return [3 * math.exp(-i / 40) + 1 + draw.gauss(0, 0.05) for i in range(count)]


def test_a_spike_is_seen_and_noise_and_descent_are_not():
    curve = noisy(200)
    assert asked(LossSpike(), lines(curve)) == []
    curve[150] += 2.0
    assert asked(LossSpike(), lines(curve)) == [151]
    assert asked(LossSpike(metric="grad_norm"), lines(curve)) == []


@settings(max_examples=25)
@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.integers(0, 2**16))
def test_a_spike_does_not_depend_on_the_unit_of_the_loss(scale, height, seed):
    """Scaling a curve scales median and spread alike: a spike stays one, and none appears."""
    curve = noisy(40, seed)
    curve[30] += height
    scaled = [scale * x for x in curve]
    found = asked(LossSpike(), lines(curve))
    assert asked(LossSpike(), lines(scaled)) == found
    assert 31 in found or height < 10
    assert not found or height > 0.1


def test_a_flat_curve_has_a_spread_of_one_percent():
    assert asked(LossSpike(), lines([1.0] * 20 + [1.07])) == []
    assert asked(LossSpike(), lines([1.0] * 20 + [1.09])) == [21]


def test_values_that_are_not_finite_and_skipped_updates():
    records = [{"stage": "s", "step": 1, "loss": 1.0, "skipped": 0.0}, {"stage": "s", "step": 2, "skipped": 0.5}]
    assert asked(NonFinite(), [*records, {"stage": "s", "step": 3, "eval_loss": math.nan}]) == [2, 3]


def test_a_stall_is_long_in_seconds_and_beside_other_steps():
    def record(step, longest, usual=2.0):
        return {"stage": "s", "step": step, "step_time": usual, "step_time_max": longest}

    assert asked(Stall(seconds=10, factor=10), [record(1, 500.0), record(2, 19.0), record(3, 21.0)]) == [3]
    assert asked(Stall(seconds=60, factor=10), [record(1, 2.0), record(2, 59.0), record(3, 61.0)]) == [3]


def test_throughput_has_dropped_when_several_lines_are_slow():
    speeds = [100.0] * 12 + [50.0, 100.0] + [60.0] * 4
    records = [r | {"step_time": 20.0} for r in lines(speeds, "tokens_per_second")]
    assert asked(ThroughputDrop(), records) == [17, 18]
    assert asked(ThroughputDrop(), [r | {"step_time": 19.0} for r in records]) == []


def test_a_process_that_is_late_and_a_full_disk():
    late = [
        {"step": i, "step_time": 1.0, "slowest_process": 3, "slowest_process_lag": x} for i, x in ((1, 0.1), (2, 0.3))
    ]
    assert asked(Straggler(), late) == [2]
    assert "process 3 is 0.3 s per step behind" in Straggler().check(late[1], [])
    assert asked(DiskLow(gib=5), [{"step": 1, "disk_free_gib": 5.0}, {"step": 2, "disk_free_gib": 4.9}]) == [2]


@pytest.mark.parametrize("rule", DEFAULT, ids=lambda r: type(r).__name__)
def test_a_line_without_the_metric_says_nothing(rule):
    assert rule.check({"stage": "s", "step": 1}, []) is None
    assert rule.check({"stage": "s", "step": 1, "loss": None, "tokens_per_second": None}, lines([1.0] * 30)) is None


@dataclass(frozen=True)
class Above:
    limit: float

    def check(self, record, history):
        return f"{record['x']} after {len(history)}" if record.get("x", 0) > self.limit else None


@dataclass(frozen=True)
class Failing:
    def send(self, alert):
        raise OSError("nobody listens")


@dataclass(frozen=True)
class Keeping:
    found: list

    def send(self, alert):
        self.found.append(alert)


def test_what_stays_true_is_told_once_and_again_after_it_was_not(tmp_path):
    said, got = [], []
    with Alarms(tmp_path, "r", (Above(1.0),), (Failing(), Keeping(got)), said.append) as alarms:
        alarms.begin([{"stage": "s", "step": 0}])
        for step, x in enumerate((0, 2, 3, 0, 2), 1):
            alarms.see({"stage": "s", "step": step, "x": x})
            alarms.see({"stage": "s", "step": step, "eval_loss": 1.0, "eval_runtime": 1.0})
    stored = [json.loads(line) for line in (tmp_path / ALERTS).read_text().splitlines()]
    assert [(a["step"], a["rule"], a["message"]) for a in stored] == [
        (2, "Above", "2 after 3"),
        (5, "Above", "2 after 9"),
    ]
    assert [dataclasses.asdict(a) for a in got] == stored
    assert said.count("warning: Failing did not take an alert: OSError: nobody listens") == 2
    assert "alert: s step 2: Above: 2 after 3" in said


def test_alerts_of_earlier_starts_stay(tmp_path):
    for _ in range(2):
        with Alarms(tmp_path, "r", (Above(1.0),), (), lambda text: None) as alarms:
            alarms.see({"stage": "s", "step": 7, "x": 2})
    assert len((tmp_path / ALERTS).read_text().splitlines()) == 2


@dataclass(frozen=True)
class Broken:
    def check(self, record, history):
        return record["absent"]


def test_a_rule_that_fails_is_left_out_with_a_word_and_the_others_go_on(tmp_path):
    said = []
    with Alarms(tmp_path, "r", (Broken(), Above(1.0)), (), said.append) as alarms:
        for step in (1, 2):
            alarms.see({"stage": "s", "step": step, "x": step})
    assert said == [
        "warning: Broken is not asked for alerts any more: KeyError: 'absent'",
        "alert: s step 2: Above: 2 after 1",
    ]


ALERT = Alert("2026-01-01T00:00:00+00:00", "r", "/runs/r", "sft", 7, "LossSpike", "it's high; $(rm x)")


def test_a_command_is_run_without_a_shell_and_only_when_the_environment_says_so(tmp_path, monkeypatch):
    monkeypatch.delenv("JAXPO_ALERT_COMMAND", raising=False)
    RunCommand().send(ALERT)
    out = tmp_path / "out.json"
    program = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text(sys.stdin.read())"
    monkeypatch.setenv("JAXPO_ALERT_COMMAND", f"{sys.executable} -c '{program}' {out}")
    RunCommand().send(ALERT)
    assert json.loads(out.read_text()) == dataclasses.asdict(ALERT)


def test_an_address_gets_the_alert_and_only_when_the_environment_says_so(monkeypatch):
    got = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    monkeypatch.delenv("JAXPO_ALERT_URL", raising=False)
    Post().send(ALERT)
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        monkeypatch.setenv("JAXPO_ALERT_URL", f"http://127.0.0.1:{server.server_port}/hook")
        Post().send(ALERT)
    assert got == [{"text": "r: sft step 7: LossSpike: it's high; $(rm x)", **dataclasses.asdict(ALERT)}]
    monkeypatch.setenv("JAXPO_ALERT_URL", "file:///etc/passwd")
    with pytest.raises(ValueError, match="JAXPO_ALERT_URL must hold an http or https address"):
        Post().send(ALERT)


@pytest.mark.parametrize("receiver", [RunCommand, Post])
def test_a_variable_that_is_not_for_alerts_is_refused(receiver):
    """A shell in `SHELL` would run what a foreign run directory has a rule say."""
    assert receiver("JAXPO_ALERT_TEAM").variable == "JAXPO_ALERT_TEAM"
    with pytest.raises(ConfigError, match="must have a name that begins with JAXPO_ALERT_"):
        receiver("SHELL")
