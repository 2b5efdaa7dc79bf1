"""Shares of wall time and speed, exactly, on a clock that moves when told; and the union of nested compilations."""

import pytest

from jaxpo.train.clock import NAMES, PARTS, UNKNOWN, Ceiling, Clock
from jaxpo.train.metrics import TIMING
from jaxpo.train.watch import CompileWatch


class Time:
    """A clock, and seconds of compilation, in eighths so that sums are exact."""

    def __init__(self):
        self.now = self.compiled = 0.0

    def pass_by(self, seconds, compiling=0.0):
        self.now += seconds
        self.compiled += compiling


@pytest.fixture
def time():
    return Time()


def clock_of(time):
    return Clock(lambda: time.compiled, lambda: time.now)


def window(time):
    """16 s, 4 of them compilation: 3 s of data, 4 of steps, 2 of evaluation, 1 of saving, 2 of anything else."""
    time.pass_by(100.0, compiling=50.0)  # before this window
    clock = clock_of(time)
    for part, seconds, compiling in (("data", 3, 1), ("step", 6, 2), ("eval", 3, 1), ("save", 1, 0), ("data", 1, 0)):
        with clock.during(part):
            time.pass_by(seconds, compiling)
    time.pass_by(2.0)
    clock.steps, clock.tokens, clock.trained, clock.samples = 2, 900, 450, 18
    return clock


def test_shares_are_exact_and_add_up_to_one(time):
    rates = window(time).rates(UNKNOWN, 1)
    shares = {name: rates[name] for name in NAMES}
    assert shares == {
        "time/data": 3 / 12,
        "time/step": 4 / 12,
        "time/eval": 2 / 12,
        "time/save": 1 / 12,
        "time/other": pytest.approx(2 / 12),
    }
    assert sum(shares.values()) == 1.0
    assert len(NAMES) == len(PARTS) + 1


def test_speed_leaves_out_compilation_evaluation_and_saving(time):
    """9 s of 12 are left: 900 tokens, of which two devices make 50 per second each."""
    rates = window(time).rates(Ceiling(flops_per_token=2e9, peak=4e11), 2)
    assert rates["step_time"] == 9 / 2
    assert rates["data_time"] == 3 / 2
    assert rates["tokens_per_second"] == 100.0
    assert rates["trained_tokens_per_second"] == 50.0
    assert rates["tokens_per_second_per_device"] == 50.0
    assert rates["samples_per_second"] == 2.0
    assert rates["tflops"] == 0.2
    assert rates["mfu"] == 2e11 / 8e11
    assert set(rates) <= set(TIMING)


@pytest.mark.parametrize(
    ("ceiling", "there"),
    [
        (UNKNOWN, set()),
        (Ceiling(1e9), {"tflops"}),
        (Ceiling(None, 1e12), set()),
        (Ceiling(1e9, 1e12), {"tflops", "mfu"}),
    ],
)
def test_what_is_not_known_is_left_out(time, ceiling, there):
    assert {"tflops", "mfu"} & set(window(time).rates(ceiling, 1)) == there


def test_an_error_inside_a_part_still_counts(time):
    clock = clock_of(time)

    def fail():
        with clock.during("data"):
            time.pass_by(2.0)
            raise ValueError("lost")

    with pytest.raises(ValueError, match="lost"):
        fail()
    assert clock.spent["data"] == 2.0


def test_what_is_stopped_counts_towards_nothing(time):
    """5 s, 2 of them compilation, in a window of 3 s of data and 1 s of other work."""
    clock = clock_of(time)
    with clock.during("data"):
        time.pass_by(3.0)
    with clock.stopped():
        time.pass_by(5.0, compiling=2.0)
    time.pass_by(1.0)
    clock.steps = 1
    rates = clock.rates(UNKNOWN, 1)
    assert (rates["time/data"], rates["time/other"], rates["step_time"]) == (3 / 4, 1 / 4, 4.0)


@pytest.mark.parametrize(
    ("spans", "seconds"),
    [
        ([], 0.0),
        ([(0, 1), (2, 4)], 3.0),  # apart
        ([(1, 2), (3, 4), (0, 5)], 5.0),  # inner ones end first
        ([(0, 1), (3, 4), (2, 5)], 4.0),
        ([(0, 3), (1, 4), (2, 6)], 6.0),  # of two threads
        ([(0, 1), (1, 2)], 2.0),
    ],
)
def test_nested_compilations_count_once(spans, seconds):
    watch = CompileWatch()
    for span in spans:
        watch.note(*map(float, span))
    assert watch.seconds == seconds
