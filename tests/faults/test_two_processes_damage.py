"""Two real processes find a damaged checkpoint: one sets it aside, and both go back to the same step."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from stages.process import places
from train import toy_training as toy

from jaxpo.checkpoint.store import CheckpointStore
from jaxpo.train.metrics import read_metrics

PROGRAM = Path(toy.__file__)
STEPS = 8

pytestmark = pytest.mark.scale


def start(directory, place):
    environment = {
        **os.environ,
        **place,
        "PYTHONPATH": str(PROGRAM.parents[2]),
        "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=2"),
    }
    command = [sys.executable, str(PROGRAM), str(directory), str(STEPS), "0", "0"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def test_two_processes_go_back_to_the_same_step(tmp_path, capsys):
    """Values that are not those that were saved, which only the arrays tell, and a cut file, which the files tell."""
    whole = toy.train(tmp_path / "whole", STEPS)
    toy.train(tmp_path / "run", 6)
    store = CheckpointStore(tmp_path / "run" / "stages" / "toy" / "checkpoints")
    assert store.steps() == [3, 6]
    file = store.path(6) / "meta" / "meta.json"
    document = {k: v for k, v in json.loads(file.read_text()).items() if k != "digest"}
    name = next(iter(document["fingerprints"]))
    document["fingerprints"][name] = "0" * 16
    file.write_text(json.dumps(document))
    newest = store.path(7)
    newest.mkdir()
    (newest / "half").write_text("")
    outputs = [p.communicate()[0] for p in [start(tmp_path / "run", place) for place in places(2)]]
    said = "".join(outputs)
    assert said.count("It is kept as 00000007.damaged") == 1, said
    assert said.count(f"the stored values of {name} are not those that were saved. It is kept as 00000006.damaged") == 1
    assert said.count("resuming at step 3 of stage toy") == 1
    assert CheckpointStore(store.directory).latest() == STEPS
    with np.load(tmp_path / "run" / "final.npz") as final:
        for i, x in enumerate(jax.tree.leaves(whole.params)):
            if x.dtype == np.float32:
                np.testing.assert_allclose(final[str(i)], x, rtol=1e-4, atol=1e-6)
    tokens = [[r["num_tokens"] for r in read_metrics(tmp_path / d / "metrics.jsonl")] for d in ("run", "whole")]
    assert tokens[0] == tokens[1]
