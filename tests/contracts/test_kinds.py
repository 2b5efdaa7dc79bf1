"""Every kind of stage in the table: one recipe that has them all, run, measured, accumulated, sharded and resumed."""

import dataclasses
import json
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from contracts.kinds import EXAMPLES, every_kind
from stages import process

from jaxpo.config import Denoise
from jaxpo.config.serialise import to_jsonable
from jaxpo.convert.kept import has_model
from jaxpo.convert.model_io import load_model
from jaxpo.recipe.kinds import KINDS, kind_of, method_of
from jaxpo.recipe.lineage import trained
from jaxpo.recipe.measured import ROUTING, WORST
from jaxpo.stages import run as running
from jaxpo.train.metrics import TIMING, read_metrics


def finished(run, monkeypatch, devices=1):
    """The run's folder, after `jaxpo run` on so many of the simulated devices."""
    process.on_devices(monkeypatch, devices)
    assert running.execute(run) == 0
    return run.output_dir + "/" + run.name


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """The recipe of all kinds and its folder, finished."""
    run = every_kind(tmp_path_factory.mktemp("every"))
    with pytest.MonkeyPatch.context() as patch:
        folder = finished(run, patch)
    return run, folder


def stages(run, folder):
    return {stage.name: f"{folder}/stages/{stage.name}" for stage in run.stages}


def test_every_kind_is_enrolled():
    # Images are no rows of tokens, and their model writes no text: a run of its own, in tests/diffusion.
    assert {*EXAMPLES, Denoise} == set(KINDS)


def test_every_stage_leaves_what_its_kind_says(recipe):
    run, folder = recipe
    for stage in run.stages:
        path = Path(folder) / "stages" / stage.name
        assert has_model(path) == stage.LEAVES_MODEL
        assert all((path / name).is_file() for name in stage.outputs())


def test_every_kind_measures_what_it_promises(recipe):
    run, folder = recipe
    records = read_metrics(Path(folder) / "metrics.jsonl")
    for stage in trained(run):
        (measured,) = (r for r in records if r["stage"] == stage.name and "eval_runtime" in r)
        kind = kind_of(stage)
        promised = {*kind.metrics, *getattr(method_of(stage), "METRICS", ()), *kind.more_metrics(stage)} - {
            *ROUTING,
            WORST,
        }
        assert {f"eval_{name}" for name in promised} <= set(measured)
        assert all(np.isfinite(v) for v in measured.values() if isinstance(v, float))


def test_a_finished_recipe_is_not_run_again(recipe, monkeypatch, capsys):
    run, folder = recipe
    before = (Path(folder) / "metrics.jsonl").read_bytes()
    finished(run, monkeypatch)
    assert (Path(folder) / "metrics.jsonl").read_bytes() == before
    assert "is finished" in capsys.readouterr().out


@pytest.mark.slow  # seven stages compiled for two devices; test_objectives.py shards every shape of need
def test_microbatches_and_devices_change_nothing(recipe, tmp_path, monkeypatch):
    """The models of every stage, after two microbatches on two devices as after one on one."""
    run, folder = recipe
    halves = tuple(
        dataclasses.replace(stage, gradient_accumulation_steps=2) if stage.TRAINS else stage for stage in run.stages
    )
    other = finished(dataclasses.replace(run, stages=halves, output_dir=str(tmp_path)), monkeypatch, devices=2)
    for name, path in stages(run, folder).items():
        if not has_model(Path(path)):
            continue
        one, two = (load_model(p).params for p in (path, stages(run, other)[name]))
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-4 * max(1.0, float(np.abs(a).max())), err_msg=name)


@pytest.mark.slow
def test_killed_in_every_kind_of_stage_it_ends_bit_for_bit_the_same(tmp_path):
    """A process of its own, killed once in each stage, ends as one that was left alone."""
    run = every_kind(tmp_path)
    config = tmp_path / "recipe.json"
    config.write_text(json.dumps(to_jsonable(run)))
    code, out = process.finish(process.start(config, "--run", "whole"))
    assert code == 0, out
    for stage in run.stages:
        running = process.start(config, "--run", "killed")
        wait_until_begun(running, tmp_path / "runs" / "killed" / "stages" / stage.name)
        process.kill(running)
    code, out = process.finish(process.start(config, "--run", "killed"))
    assert code == 0, out
    killed, whole = (str(tmp_path / "runs" / name) for name in ("killed", "whole"))
    for name, path in stages(run, whole).items():
        if has_model(Path(path)):
            models = (load_model(p).params for p in (path, stages(run, killed)[name]))
            jax.tree.map(np.testing.assert_array_equal, *models)
    kept = [
        [
            {k: v for k, v in record.items() if k not in TIMING}
            for record in read_metrics(Path(folder) / "metrics.jsonl")
        ]
        for folder in (killed, whole)
    ]
    assert kept[0] == kept[1]


def wait_until_begun(running, folder):
    """Until a stage's folder is there, or the run has ended before a kill could reach it."""
    while not folder.is_dir() and running.poll() is None:
        time.sleep(0.01)
