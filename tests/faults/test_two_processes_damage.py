"""Two real processes find a damaged checkpoint: one sets it aside, and both go back to the same step."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from stages.process import finish_all, places, start_program
from train import toy_training as toy

from jaxpo.checkpoint.store import CheckpointStore
from jaxpo.train.metrics import read_metrics

PROGRAM = Path(__file__).with_name("one_sees.py")
STEPS = 14
KEEP = dataclasses.replace(toy.STAGE, save_total_limit=4)

pytestmark = pytest.mark.scale


def test_two_processes_go_back_to_the_same_step(tmp_path):
    """Values that are not those that were saved, which only the arrays tell; a folder that holds nothing; and what one
    of the processes alone cannot read."""
    whole = toy.train(tmp_path / "whole", STEPS)
    toy.train(tmp_path / "run", 12, stage=KEEP)
    store = CheckpointStore(tmp_path / "run" / "stages" / "toy" / "checkpoints")
    assert store.steps() == [3, 6, 9, 12]
    file = store.path(12) / "meta" / "meta.json"
    document = {k: v for k, v in json.loads(file.read_text()).items() if k != "digest"}
    name = next(iter(document["fingerprints"]))
    document["fingerprints"][name] = "0" * 16
    file.write_text(json.dumps(document))
    newest = store.path(13)
    newest.mkdir()
    (newest / "half").write_text("")
    running = [start_program(PROGRAM, tmp_path / "run", STEPS, devices=2, environ=place) for place in places(2)]
    _, outputs = finish_all(running)
    said = "".join(outputs)
    for words in (
        "It is kept as 00000013.damaged",
        f"the stored values of {name} are not those that were saved. It is kept as 00000012.damaged",
        "00000009 is damaged: nine is cut short. It is kept as 00000009.damaged",
        "00000006 is damaged: six holds other bytes. It is kept as 00000006.damaged",
        "resuming at step 3 of stage toy",
    ):
        assert said.count(words) == 1, (words, said)
    assert said.count("warning: process 1: checkpoint") == 2
    assert CheckpointStore(store.directory).latest() == STEPS
    with np.load(tmp_path / "run" / "final.npz") as final:
        for i, x in enumerate(jax.tree.leaves(whole.params)):
            if x.dtype == np.float32:
                np.testing.assert_allclose(final[str(i)], x, rtol=1e-4, atol=1e-6)
    tokens = [[r["num_tokens"] for r in read_metrics(tmp_path / d / "metrics.jsonl")] for d in ("run", "whole")]
    assert tokens[0] == tokens[1]
