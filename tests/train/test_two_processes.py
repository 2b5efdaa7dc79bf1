"""Two real processes with two devices each: a signal to one stops both at the same step; one process takes over."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from stages.process import places
from train import toy_training as toy

from jaxpo.checkpoint.store import CheckpointStore
from jaxpo.train.metrics import read_metrics

PROGRAM = Path(__file__).with_name("toy_training.py")
ENDLESS = 100_000  # steps: a signal takes effect after a second or more, and the run must not end before


def start(directory, place):
    environment = {
        **os.environ,
        **place,
        "PYTHONPATH": str(PROGRAM.parents[2]),
        "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=2"),
    }
    command = [sys.executable, str(PROGRAM), str(directory), str(ENDLESS), "0.2", "0"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


@pytest.mark.usefixtures("default_signals")
def test_signal_to_one_of_two_processes_and_resume_in_one(tmp_path, capsys):
    """The metrics of 2 x 2 devices, then 1 x 1, equal those of one device to float32 rounding; tokens exactly."""
    both = [start(tmp_path / "run", place) for place in places(2)]
    log = tmp_path / "run" / "metrics.jsonl"
    while not (log.exists() and any(r["step"] >= 2 for r in read_metrics(log))):
        assert all(p.poll() is None for p in both), [p.communicate()[0] for p in both]
        time.sleep(0.02)
    both[1].send_signal(signal.SIGTERM)
    outputs = [p.communicate()[0] for p in both]
    assert [p.returncode for p in both] == [143, 143], outputs
    store = CheckpointStore(tmp_path / "run" / "stages" / "toy" / "checkpoints")
    stopped = store.latest()
    assert all(f"stopped by SIGTERM at step {stopped} of stage toy" in out for out in outputs)
    assert store.environment()["processes"] == 2

    steps = stopped + 4
    whole = toy.train(tmp_path / "whole", steps)
    capsys.readouterr()
    resumed = toy.train(tmp_path / "run", steps)
    out = capsys.readouterr().out
    assert f"resuming at step {stopped} of stage toy ({steps} steps); not bit for bit" in out
    assert "processes 2 -> 1" in out
    np.testing.assert_allclose(resumed.params["model"]["w"], whole.params["model"]["w"], rtol=1e-4, atol=1e-6)
    tokens = [[r["num_tokens"] for r in read_metrics(tmp_path / d / "metrics.jsonl")] for d in ("run", "whole")]
    assert tokens[0] == tokens[1]
