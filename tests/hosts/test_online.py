"""An online stage of several processes: they write answers together, one keeps the ledger, and all train on them."""

import json

import numpy as np
import pytest
from online.test_recipe import steps
from online.tiny import online, recipe
from stages.process import finish, on_devices, places, start

from jaxpo.config.serialise import to_jsonable
from jaxpo.objectives.methods.ppo import PPO
from jaxpo.stages import run as running
from jaxpo.train.metrics import TIMING

DEVICES = 4


@pytest.mark.scale
def test_two_processes_write_and_train_as_one_does(tmp_path, monkeypatch):
    stage = online(tmp_path, loss=PPO(), rows_per_step=8, steps_per_generation=2, max_steps=4)
    run = recipe(tmp_path, stage)
    config = tmp_path / "recipe.json"
    config.write_text(json.dumps(to_jsonable(run)))
    two = [start(config, "--run", "two", devices=2, environ=place) for place in places(2)]
    ended = [finish(process) for process in two]
    assert [code for code, _ in ended] == [0, 0], ended
    on_devices(monkeypatch, DEVICES)
    assert running.execute(run) == 0
    alone, together = (steps(tmp_path / "runs" / name) for name in ("tiny", "two"))
    for a, b in zip(alone, together, strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - set(TIMING) - {"stage"}:
            np.testing.assert_allclose(b[name], a[name], rtol=2e-3, atol=2e-4, err_msg=name)
    assert answers(tmp_path / "runs/tiny") == answers(tmp_path / "runs/two")


def answers(folder):
    """Texts of the first generation: of the same weights, whoever computes."""
    (path,) = (folder / "stages/online/rollouts/00000000").glob("answers-*.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()][1:-1]
    return [[a["text"] for a in line["answers"]] for line in sorted(lines, key=lambda line: line["position"])]
