"""Processes that die: SIGKILL at a random moment, SIGTERM, a full disk, a second process on the same directory."""

import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from train.toy_training import gate

from jaxpo.train.metrics import TIMING, read_metrics

STEPS = 30
PROGRAM = Path(__file__).with_name("toy_training.py")


def start(directory, delay=0.0, hold=0, before=""):
    """The toy as a process of its own, held at a step if asked; `before` is a shell command run in it first."""
    command = [sys.executable, str(PROGRAM), str(directory), str(STEPS), str(delay), str(hold)]
    shell = ["bash", "-c", f'{before} exec "$@"', "bash", *command] if before else command
    env = {**os.environ, "PYTHONPATH": str(PROGRAM.parents[2])}
    return subprocess.Popen(shell, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)


def finish(directory):
    process = start(directory)
    out, _ = process.communicate()
    return process.returncode, out


def wait_for_step(directory, step, process):
    """Block until a log line of at least `step` is on disk."""
    path = directory / "metrics.jsonl"
    while not (path.exists() and any(r["step"] >= step for r in read_metrics(path))):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.005)


def result(directory):
    with np.load(directory / "final.npz") as file:
        arrays = {k: file[k].tobytes() for k in file.files}
    return arrays, [{k: v for k, v in r.items() if k not in TIMING} for r in read_metrics(directory / "metrics.jsonl")]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole")
    code, out = finish(directory)
    assert code == 0, out
    return result(directory)


def test_sigkill_at_a_random_step_changes_nothing(tmp_path, uninterrupted):
    """Killed twice at random steps and moments (also while saving), then left alone: same parameters, same log."""
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for at in sorted(rng.sample(range(4, STEPS - 8), 2)):
        process = start(tmp_path, delay=0.01, hold=at + 8)
        wait_for_step(tmp_path, at, process)
        time.sleep(rng.random() * 0.05)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    # Killed early enough, both died before a first checkpoint was whole.
    saved = any(path.name.isdigit() for path in tmp_path.glob("stages/toy/checkpoints/*"))
    code, out = finish(tmp_path)
    assert code == 0, out
    assert ("resuming at step" in out) == saved
    assert result(tmp_path) == uninterrupted
    assert not list(tmp_path.rglob("*tmp*"))


@pytest.mark.usefixtures("default_signals")
def test_a_background_job_ignores_sigint_and_sigterm_saves_exits_143_and_resumes(tmp_path, uninterrupted):
    """Started as a shell starts a background job: SIGINT, the terminal's Ctrl-C, is ignored and stays so."""
    process = start(tmp_path, hold=14, before="trap '' INT;")
    wait_for_step(tmp_path, 10, process)
    process.send_signal(signal.SIGINT)
    process.terminate()
    gate(tmp_path).touch()
    out, _ = process.communicate()
    assert process.returncode == 143, out
    stopped = int(out.split("stopped by SIGTERM at step ")[1].split()[0])
    assert f"stopped by SIGTERM at step {stopped} of stage toy, saved; the same command resumes" in out
    code, out = finish(tmp_path)
    assert code == 0, out
    assert f"resuming at step {stopped} of stage toy ({STEPS} steps)" in out
    assert result(tmp_path) == uninterrupted


@pytest.mark.slow  # tests/checkpoint/test_store.py fills the disk of a store in this process
def test_full_disk_keeps_the_previous_checkpoint(tmp_path, uninterrupted):
    """A real limit on file sizes, set while the process runs: it ends with a message, and a resume loses nothing."""
    process = start(tmp_path, hold=6)
    while not (tmp_path / "stages" / "toy" / "checkpoints" / "00000003").exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    # metrics.jsonl is larger than this by now, and so are a checkpoint's files: every further write fails with EFBIG.
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (200, 200))
    gate(tmp_path).touch()
    out, _ = process.communicate()
    assert process.returncode == 2, out
    assert "error: " in out
    assert "Traceback" not in out
    assert "File too large" in out
    code, out = finish(tmp_path)
    assert code == 0, out
    assert "resuming at step 3" in out
    assert result(tmp_path) == uninterrupted


def test_second_process_is_refused_and_told_the_pid(tmp_path):
    process = start(tmp_path, hold=6)
    wait_for_step(tmp_path, 2, process)
    code, out = finish(tmp_path)
    process.kill()
    process.communicate()
    assert code == 2
    assert f"{tmp_path} is in use by process {process.pid} on " in out
    assert "--run NEW" in out
