"""A run that is stopped and goes on with other devices and microbatches trains as one that was left alone."""

import dataclasses

import jax
import numpy as np
import pytest
import stages.recipe as recipes
from elastic.follow import assert_alike, assert_none_is_lost, follow, given
from stages.process import on_devices, without_curves

from jaxpo.config import Optimizer
from jaxpo.convert.model_io import load_model
from jaxpo.objectives.methods import METHODS
from jaxpo.train.metrics import read_metrics

pytestmark = pytest.mark.scale
# Devices, microbatches, and the step after which the run is stopped, always in the midst of an epoch.
LONG = (
    (8, 1, ("sft", 2)),
    (4, 2, ("sft", 4)),
    (2, 1, ("preference", 2)),
    (1, 4, ("preference", 4)),
    (8, 1, None),
)
# Programs for eight devices take several times as long to compile.
SHORT = ((4, 2, ("sft", 3)), (2, 1, ("preference", 2)), (1, 4, ("preference", 4)), (4, 1, None))


def recipe(folder):
    """A curriculum over packed rows, then pairs with recorded log-probs of a reference."""
    recipes.write_data(folder)
    # A larger epsilon leaves what the gradients say: with a small one Adam makes steps of their rounding.
    common = {
        "rows_per_step": 8,
        "gradient_accumulation_steps": 1,
        "save_steps": 0,
        "eval_steps": 0,
        "snapshot_steps": 0,
        "optimizer": Optimizer(learning_rate=3e-3, adam_epsilon=1e-5),
    }
    whole = recipes.recipe(folder)
    stages = [dataclasses.replace(s, **common, max_steps=6) for s in whole.stages[1:3]]
    stages = [dataclasses.replace(s, data=dataclasses.replace(s.data, eval=())) for s in stages]
    stages[-1] = dataclasses.replace(stages[-1], loss=METHODS["dpo"]())
    model = dataclasses.replace(whole.model, layer_types=("full_attention",))
    return dataclasses.replace(whole, model=model, stages=tuple(stages), prompts=(), export=False)


def with_microbatches(run, count, **compute):
    stages = tuple(dataclasses.replace(s, gradient_accumulation_steps=count) for s in run.stages)
    return dataclasses.replace(run, stages=stages, compute=dataclasses.replace(run.compute, **compute))


@pytest.mark.parametrize("hops", [SHORT, pytest.param(LONG, marks=pytest.mark.slow)], ids=["four", "eight"])
def test_fewer_and_fewer_devices_and_back(hops, tmp_path, monkeypatch, capsys):
    run = recipe(tmp_path)
    without_curves(monkeypatch)
    on_devices(monkeypatch, 1)
    alone = dataclasses.replace(run, name="alone")
    assert follow(alone, tmp_path / "alone" / "0") == 0
    for i, (devices, microbatches, stop_at) in enumerate(hops):
        on_devices(monkeypatch, devices)
        # What saves memory on fewer devices may change, too.
        changed = with_microbatches(run, microbatches, **({"remat": "full", "head_chunk": 32} if devices == 1 else {}))
        assert follow(changed, tmp_path / "many" / str(i), stop_at) == (143 if stop_at else 0)
    out = capsys.readouterr().out
    assert "changed: sft.gradient_accumulation_steps: 1 -> 4 (changes rounding only)" in out
    assert "changed: compute.head_chunk: null -> 32 (changes rounding only)" in out

    for stage in ("sft", "preference"):
        one, many = (given(tmp_path / name, stage) for name in ("alone", "many"))
        assert many == one, "the same examples, in the same steps"
        assert_none_is_lost(many, 60)
    logs = [read_metrics(tmp_path / "runs" / name / "metrics.jsonl") for name in (run.name, "alone")]
    assert_alike(*map(list, logs), rtol=1e-4)
    for stage in ("sft", "preference"):
        models = [load_model(tmp_path / "runs" / name / "stages" / stage).params for name in (run.name, "alone")]
        for a, b in zip(*map(jax.tree.leaves, models), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-4 * np.abs(b).max())
