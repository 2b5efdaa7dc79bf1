"""`jaxpo run` as several processes: stages of all kinds give what one process gives on as many devices."""

import signal
import time

import pytest
from hosts import every_stage
from stages.process import finish, kill, on_devices, places, start

from jaxpo.cli.main import main
from jaxpo.train.metrics import read_metrics

DEVICES = 4


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return every_stage.write(tmp_path_factory.mktemp("short"), every_stage.SHORT)


@pytest.fixture(scope="module")
def long_config(tmp_path_factory):
    return every_stage.write(tmp_path_factory.mktemp("every_stage"))


@pytest.fixture(scope="module")
def long_alone(long_config):
    """The run of one process."""
    return run_alone(long_config)


def run_alone(config):
    with pytest.MonkeyPatch.context() as patch:
        on_devices(patch, DEVICES)
        assert main(["run", str(config), "--run", "one"]) == 0
    return config.parent / "runs" / "one"


@pytest.fixture
def together():
    """Starts the processes of a run, all of which are gone afterwards."""
    running = []

    def begin(config, count, *words):
        some = [start(config, *words, devices=DEVICES // count, environ=place) for place in places(count)]
        running.extend(some)
        return some

    yield begin
    for process in running:
        if process.poll() is None:
            kill(process)


@pytest.mark.scale
def test_two_processes_do_as_one_does(config, together):
    alone = run_alone(config)
    ended = [finish(process) for process in together(config, 2, "--run", "two")]
    assert [code for code, _ in ended] == [0, 0], ended
    assert "export verified" in ended[0][1]
    assert "pretrain" not in ended[1][1]
    every_stage.assert_alike(alone, config.parent / "runs" / "two")


@pytest.mark.scale
@pytest.mark.slow  # as the test of two, and longer
def test_four_processes_of_which_two_compute_on_the_same_rows_do_every_stage(long_config, long_alone, together):
    """The tensor axis lies across processes: they bring the same rows."""
    ended = [finish(p) for p in together(long_config, 4, "--run", "four", "--mesh.fsdp", "2", "--mesh.tensor", "2")]
    assert [code for code, _ in ended] == [0] * 4, ended
    every_stage.assert_alike(long_alone, long_config.parent / "runs" / "four")
    assert every_stage.recorded(long_alone)


@pytest.mark.scale
@pytest.mark.slow  # three starts of two processes
@pytest.mark.parametrize("who", [0, 1])
def test_a_process_that_is_killed_is_named_and_the_same_command_ends_equal(long_config, long_alone, together, who):
    """Killed once in training, then resumed to the end."""
    name = f"killed{who}"
    log = long_config.parent / "runs" / name / "metrics.jsonl"
    running = together(long_config, 2, "--run", name)
    while not (log.exists() and any(r["stage"] == "sft" for r in read_metrics(log))):
        assert all(p.poll() is None for p in running)
        time.sleep(0.05)
    running[who].send_signal(signal.SIGKILL)
    began = time.monotonic()
    code, out = finish(running[1 - who])
    assert time.monotonic() - began < 30
    assert code == 75, out
    assert f"jaxpo: process {who} is gone without a word" in out
    kill(running[who])
    ended = [finish(process) for process in together(long_config, 2, "--run", name)]
    assert [code for code, _ in ended] == [0, 0], ended
    every_stage.assert_alike(long_alone, long_config.parent / "runs" / name)


@pytest.mark.scale
@pytest.mark.slow  # two starts; test_turns compares without
def test_a_host_with_another_configuration_is_named_before_any_work(config):
    running = [
        start(config, "--run", "unlike", "--distill.max-steps", steps, devices=1, environ=place)
        for steps, place in zip(("2", "3"), places(2), strict=True)
    ]
    (code, out), (code_1, out_1) = [finish(process) for process in running]
    assert (code, code_1) == (2, 2), out + out_1
    for said in (out, out_1):
        assert "process 1 is not as process 0: stages.2.max_steps: 3, not 2. Start all with the same command" in said
    assert not (config.parent / "runs" / "unlike").exists()
