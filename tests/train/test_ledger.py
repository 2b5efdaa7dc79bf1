"""Where the time of a run goes over its starts, exactly, on clocks that move when told."""

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpo.train.goodput import DOWN, PARTS, STARTS, behind, summary
from jaxpo.train.ledger import Ledger
from jaxpo.train.signals import Preempted


class Machine:
    """Clocks of one machine: monotonic seconds, the wall clock, which may be set, and the boot's own clock."""

    def __init__(self):
        self.now, self.offset, self.boot = 0.0, 1e9, "one"

    def start(self, folder, **options):
        clocks = {
            "now": lambda: self.now,
            "wall": lambda: self.now + self.offset,
            "boot": lambda: (self.boot, self.now),
        }
        return Ledger(folder / STARTS, say=self.said.append, **clocks, **options)

    said: list[str]


@pytest.fixture
def machine():
    found = Machine()
    found.said = []
    return found


def train(machine, ledger, first, last, *, stage="sft", seconds=2.0):
    """Steps of a stage, with a second of data before each."""
    with ledger.during("startup", stage), ledger.during("other", stage):
        for n in range(first, last + 1):
            ledger.next_step(stage, n)
            with ledger.during("data"):
                machine.now += 1.0
            with ledger.during("step"):
                machine.now += seconds
            ledger.took(stage, n)


def test_steps_count_once_however_often_a_run_is_killed(machine, tmp_path):
    """Killed at step 8 after a save at 5, then stopped at 9, then to the end at 12: 12 steps count, 3 do not."""
    ledger = machine.start(tmp_path)
    machine.now += 4.0
    train(machine, ledger, 1, 8)
    ledger.keep(now=True)  # killed: nothing more is written
    machine.now += 100.0
    stopped = machine.start(tmp_path)
    train(machine, stopped, 6, 9)
    stopped.__exit__(Preempted, Preempted("stopped", 15), None)
    machine.now += 10.0
    with machine.start(tmp_path) as ledger:
        train(machine, ledger, 10, 12)
        with ledger.during("eval", "sft"):
            machine.now += 7.0
    found = summary(json.loads((tmp_path / STARTS).read_text())["starts"])
    none = dict.fromkeys(PARTS, 0.0)
    assert found["parts"] == none | {"step": 24, "again": 6, "data": 15, "startup": 4, "eval": 7, DOWN: 110}
    assert (found["starts"], found["seconds"], found["goodput"]) == (3, machine.now, 24 / machine.now)
    assert found["stages"]["sft"]["goodput"] == 24 / 52
    assert [s["ended"] for s in json.loads((tmp_path / STARTS).read_text())["starts"]] == [
        "running",
        "stopped",
        "finished",
    ]


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9), st.floats(0, 50)), min_size=1, max_size=6))
def test_every_second_has_one_part_and_every_step_counts_once(tmp_path_factory, starts):
    """Starts of some steps each, going back some steps, after a pause: by an own count of seconds and steps."""
    folder, machine, at = tmp_path_factory.mktemp("run"), Machine(), 0
    machine.said, taken, again = [], set(), 0
    for steps, back, pause in starts:
        machine.now += pause
        ledger, first = machine.start(folder), max(at - back, 0) + 1
        at = first + steps - 1
        train(machine, ledger, first, at)
        again += len(taken & set(range(first, at + 1)))
        taken |= set(range(first, at + 1))
        ledger.keep(now=True)
    found = summary(json.loads((folder / STARTS).read_text())["starts"])
    assert found["parts"]["step"] == pytest.approx(2 * len(taken))
    assert found["parts"]["again"] == pytest.approx(2 * again)
    assert found["seconds"] == pytest.approx(machine.now - starts[0][2])


@pytest.mark.parametrize(
    ("boot", "jump", "down"),
    [("one", -5000.0, 60.0), ("one", 5000.0, 60.0), ("two", -5000.0, 0.0), ("two", 0.0, 60.0)],
    ids=["set back", "set forward", "set back, another machine", "another machine"],
)
def test_a_wall_clock_that_jumps_between_starts_adds_no_time(machine, tmp_path, boot, jump, down):
    train(machine, first := machine.start(tmp_path), 1, 2)
    first.keep(now=True)
    machine.now += 60.0
    machine.offset, machine.boot = machine.offset + jump, boot
    assert machine.start(tmp_path).summary()["parts"][DOWN] == down


def test_a_run_that_had_finished_was_not_down(machine, tmp_path):
    with machine.start(tmp_path) as ledger:
        train(machine, ledger, 1, 2)
    machine.now += 1e6
    assert machine.start(tmp_path).summary()["parts"][DOWN] == 0


def test_starts_that_took_no_step_and_those_that_cannot_be_read_are_forgotten(machine, tmp_path):
    with machine.start(tmp_path):
        machine.now += 5.0
    assert machine.start(tmp_path, fresh=True).summary()["starts"] == 1
    clocks = '"began": 1.0, "seen": 1.0, "boot": "b", "uptime": 1.0, "ended": "failed"'
    odd = ['{"down": 0.0, "stages": {}}', f'{{{clocks}, "down": "x", "stages": {{}}}}', f'{{{clocks}, "down": 0.0}}']
    for text in ("{", "[]", '{"starts": 3}', *(f'{{"starts": [{start}]}}' for start in odd)):
        (tmp_path / STARTS).write_text(text)
        machine.said.clear()
        assert machine.start(tmp_path).summary()["starts"] == 1
        assert machine.said == [
            f"warning: {tmp_path / STARTS} is damaged and now starts.json.damaged: "
            "the times of earlier starts are not counted"
        ]
        assert (tmp_path / "starts.json.damaged").read_text() == text


def test_log_lines_write_at_most_every_few_seconds(machine, tmp_path):
    ledger, written = machine.start(tmp_path), []
    for _ in range(30):
        machine.now += 1.0
        ledger.keep()
        written.append(json.loads((tmp_path / STARTS).read_text())["starts"][-1]["uptime"])
    distinct = sorted(set(written))
    assert all(b - a >= 5.0 for a, b in pairwise(distinct))
    assert len(distinct) == 6


def test_the_slowest_process_is_the_one_that_the_others_wait_for():
    """Process 2 loads data for 3 s in 10 steps, the others for 1 s and then wait in the step."""

    def said(data, step):
        return {"steps": 10, "seconds": {"data": data, "step": step, "other": 0.5}}

    now = [said(1.0, 9.0), said(1.0, 9.0), said(3.0, 7.0)]
    before = [{"steps": 0, "seconds": {}}] * 3
    assert behind(before, now) == pytest.approx([-0.1, -0.1, 0.2])
    assert behind(now, now) == [0, 0, 0]
