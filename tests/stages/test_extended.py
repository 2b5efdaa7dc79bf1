"""A budget that grows: the steps after it, and those before, are those of a run that had it from the start."""

import dataclasses

import jax
import numpy as np
import pytest
import stages.recipe as recipes

from jaxpo.config import Optimizer
from jaxpo.convert.model_io import load_model
from jaxpo.stages.run import execute
from jaxpo.train.metrics import TIMING, read_metrics


@pytest.mark.slow  # three trainings; tests/stages/test_beginning.py asks of each schedule what it allows
@pytest.mark.usefixtures("one_device")
def test_a_finished_run_that_goes_on_elsewhere_is_the_longer_run(tmp_path, monkeypatch):
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    for folder in (here, elsewhere):
        folder.mkdir()
    monkeypatch.chdir(here)
    recipes.write_data(here)
    whole = recipes.recipe(here, export=False, prompts=())
    files = {part: (f"text_{part}.jsonl",) for part in ("train", "eval")}
    pretrain = dataclasses.replace(
        whole.stages[0],
        data=dataclasses.replace(whole.stages[0].data, **files),
        optimizer=Optimizer(learning_rate=3e-3, lr_scheduler_type="constant"),
        eval_steps=5,
    )

    def run(name, steps):
        stage = dataclasses.replace(pretrain, max_steps=steps)
        return dataclasses.replace(whole, stages=(stage,), name=name, output_dir=str(tmp_path / "runs"))

    assert execute(run("long", 8)) == 0
    assert execute(run("grown", 5)) == 0
    monkeypatch.chdir(elsewhere)
    assert execute(run("grown", 8)) == 0
    long, grown = (load_model(tmp_path / "runs" / name).params for name in ("long", "grown"))
    jax.tree.map(np.testing.assert_array_equal, grown, long)

    def logged(name):
        records = read_metrics(tmp_path / "runs" / name / "metrics.jsonl")
        return [{key: value for key, value in r.items() if key not in TIMING} for r in records]

    assert logged("grown") == logged("long")
