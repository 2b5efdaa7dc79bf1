"""Two real processes with two devices each: a signal to one stops both at the same step; one process takes over."""

import signal
import time
from pathlib import Path

import numpy as np
import pytest
from stages.process import finish_all, places, start_program
from train import toy_training as toy

from jaxpo.checkpoint.store import CheckpointStore
from jaxpo.train.metrics import read_metrics

PROGRAM = Path(__file__).with_name("toy_training.py")
ENDLESS = 100_000  # steps: a signal takes effect after a second or more, and the run must not end before


@pytest.mark.usefixtures("default_signals")
def test_signal_to_one_of_two_processes_and_resume_in_one(tmp_path, capsys):
    """The metrics of 2 x 2 devices, then 1 x 1, equal those of one device to float32 rounding; tokens exactly."""
    words = (PROGRAM, tmp_path / "run", ENDLESS, 0.2, 0)
    both = [start_program(*words, devices=2, environ=place) for place in places(2)]
    log = tmp_path / "run" / "metrics.jsonl"
    while not (log.exists() and any(r["step"] >= 2 for r in read_metrics(log))):
        assert all(p.poll() is None for p in both), [p.communicate()[0] for p in both]
        time.sleep(0.02)
    both[1].send_signal(signal.SIGTERM)
    codes, outputs = finish_all(both)
    assert codes == [143, 143], outputs
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
