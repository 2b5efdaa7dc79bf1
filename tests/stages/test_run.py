"""Whole runs in processes of their own: killed, stopped, resumed, refused; equal bit for bit to an undisturbed one."""

import dataclasses
import json
import os
import random
import signal
import time

import jax
import numpy as np
import pytest
import stages.recipe as recipes
from stages import process
from stages.process import finish

from jaxpo.cli.main import main
from jaxpo.config.serialise import to_jsonable
from jaxpo.convert.model_io import load_model
from jaxpo.train.metrics import TIMING, read_metrics


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe")
    recipes.write_data(folder)
    (folder / "recipe.json").write_text(json.dumps(to_jsonable(recipes.recipe(folder))))
    return folder


def start(folder, name, *extra):
    return process.start(folder / "recipe.json", "--run", name, *extra)


@pytest.fixture(scope="module")
def undisturbed(folder):
    """With a profile of two of its steps, which changes nothing."""
    code, out = finish(start(folder, "whole", "--profile", "preference:3:4"))
    assert code == 0, out
    return folder / "runs" / "whole"


def wait_for(running, metrics, stage, step):
    """Until the run has logged that step; fails if it ends before."""
    while not (metrics.exists() and any(r["stage"] == stage and r["step"] >= step for r in read_metrics(metrics))):
        if running.poll() is not None:
            pytest.fail(f"the run ended before step {step} of {stage}:\n{running.stdout.read()}")
        time.sleep(0.02)


def without_timing(path):
    return [{k: v for k, v in record.items() if k not in TIMING} for record in read_metrics(path)]


def assert_same_run(got, expected):
    """Metrics apart from timings, and every stage's parameters, bit for bit."""
    assert without_timing(got / "metrics.jsonl") == without_timing(expected / "metrics.jsonl")
    for stage in ("pretrain", "sft", "sft/snapshots/4", "sft/snapshots/8", "preference", "merge"):
        a, b = (load_model(run / "stages" / stage).params["model"] for run in (got, expected))
        for name in ("embed_tokens", "embedding_norm"):
            np.testing.assert_array_equal(a[name]["weight"], b[name]["weight"])
        w = ("layers", "0", "feed_forward", "w2", "weight")
        for key in w:
            a, b = a[key], b[key]
        np.testing.assert_array_equal(a, b)


def test_a_profile_is_a_trace_and_a_table_in_the_report(undisturbed):
    """Of the two steps of that stage alone; by the program's own names and the lines they come from."""
    folder = undisturbed / "stages" / "preference" / "profile"
    assert not (undisturbed / "stages" / "sft" / "profile").exists()
    assert next(folder.rglob("*.xplane.pb")).stat().st_size > 0
    table = json.loads((folder / "operations.json").read_text())
    assert table["steps"] == [3, 4]
    operations = table["operations"]
    assert len(operations) == 20
    # Which they are is a matter of time: that most are known by name and line is not.
    assert sum("jit(step)" in o["name"] or "checkpoint" in o["name"] for o in operations) > 10
    assert sum("/jaxpo/" in o["place"] for o in operations) > 10
    assert all(o["calls"] % 2 == 0 for o in operations if o["module"] == "jit_step")
    assert "Costliest operations: preference" in (undisturbed / "report.html").read_text()


def test_snapshots_are_the_models_of_their_steps(undisturbed):
    last, half = (load_model(undisturbed / "stages" / "sft" / folder) for folder in ("snapshots/8", "snapshots/4"))
    final = load_model(undisturbed / "stages" / "sft").params
    jax.tree.map(np.testing.assert_array_equal, last.params, final)
    assert (half.params["model"]["embed_tokens"]["weight"] != final["model"]["embed_tokens"]["weight"]).any()
    assert half.about["step"] == 4
    assert sorted(p.name for p in (undisturbed / "stages" / "sft" / "snapshots").iterdir()) == ["4", "8"]


def test_a_finished_run_leaves_everything_and_says_where(folder, undisturbed):
    for name in ("metrics.jsonl", "summary.json", "samples.json", "data_counts.json", "report.html", "config.json"):
        assert (undisturbed / name).is_file()
    verification = json.loads((undisturbed / "export" / "verification.json").read_text())
    assert verification["max_logprob_error"] < 1e-4
    code, out = finish(start(folder, "whole"))
    assert code == 0
    assert f"export: {undisturbed / 'export'}" in out


TRAINED = ("pretrain", "sft", "preference")


def assert_kills_change_nothing(folder, undisturbed, name, stages, rng):
    """Killed once in each of the stages, at another moment in every test run, then left alone."""
    metrics = folder / "runs" / name / "metrics.jsonl"
    for stage in stages:
        running = start(folder, name)
        wait_for(running, metrics, stage, rng.randint(1, 7))
        time.sleep(rng.random() * 0.05)
        process.kill(running)
    code, out = finish(start(folder, name))
    assert code == 0, out
    assert "resuming at step" in out or "starting stage" in out
    assert_same_run(folder / "runs" / name, undisturbed)


@pytest.mark.slow  # tests/train/test_kill.py kills a toy; --scale whole runs (tests/faults/test_campaign.py)
def test_killed_in_a_stage_it_ends_bit_for_bit_the_same(folder, undisturbed):
    rng = random.Random(time.time_ns())
    assert_kills_change_nothing(folder, undisturbed, "killed", (rng.choice(TRAINED),), rng)


@pytest.mark.slow
def test_killed_in_every_stage_it_ends_bit_for_bit_the_same(folder, undisturbed):
    assert_kills_change_nothing(folder, undisturbed, "killed-thrice", TRAINED, random.Random(time.time_ns()))


@pytest.mark.slow
@pytest.mark.usefixtures("default_signals")
def test_sigterm_saves_and_exits_143_then_resumes_the_same(folder, undisturbed):
    running = start(folder, "stopped")
    wait_for(running, folder / "runs" / "stopped" / "metrics.jsonl", "sft", 2)
    running.send_signal(signal.SIGTERM)
    code, out = finish(running)
    assert code == 143, out
    assert "stopped by SIGTERM at step" in out
    code, out = finish(start(folder, "stopped"))
    assert code == 0, out
    assert_same_run(folder / "runs" / "stopped", undisturbed)


@pytest.mark.slow  # tests/train/test_kill.py refuses one to a smaller run
def test_a_second_process_is_refused_naming_the_first(folder):
    first = start(folder, "busy")
    lock = folder / "runs" / "busy" / "lock"
    while not (lock.exists() and lock.read_text()):
        assert first.poll() is None, first.stdout.read()
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGSTOP)  # so that it does not end before the second has come to the lock
    code, out = finish(start(folder, "busy"))
    process.kill(first)
    assert code == 2
    assert f"in use by process {first.pid}" in out


def test_changed_configuration_and_data_are_named_with_the_two_ways_on(folder, undisturbed, one_device, capsys):
    again = ["run", str(folder / "recipe.json"), "--run", "whole"]
    assert main([*again, "--sft.optimizer.learning-rate", "0.5"]) == 2
    out = capsys.readouterr().err
    assert "sft.optimizer.learning_rate: 0.003 -> 0.5" in out
    assert "--run NEW" in out
    assert "--restart" in out
    data = folder / "pref_train.jsonl"
    original = data.read_text()
    (undisturbed / "finished.json").rename(undisturbed / "kept.json")
    try:
        data.write_text(original.replace("cat", "cow", 1))
        assert main(again) == 2
    finally:
        data.write_text(original)
        (undisturbed / "kept.json").rename(undisturbed / "finished.json")
    out = capsys.readouterr().err
    assert "data for stage preference" in out
    assert f"train: {data} has changed" in out
    assert "Restore the file and the run goes on." in out


@pytest.mark.slow
def test_the_same_recipe_trains_alike_on_one_device_and_on_fsdp_4_x_tensor_2(folder):
    pretrain = recipes.recipe(folder).stages[0]
    one_row_blocks = dataclasses.replace(pretrain.data, block_rows=1)
    # Adam divides by the root of the second moment: where that is near zero, rounding alone decides a weight's step,
    # and how a sum is rounded differs between processors. A larger epsilon leaves only what the gradients say.
    optimizer = dataclasses.replace(pretrain.optimizer, adam_epsilon=1e-5)
    stage = dataclasses.replace(
        pretrain,
        data=one_row_blocks,
        optimizer=optimizer,
        rows_per_step=8,
        gradient_accumulation_steps=1,
        max_steps=5,
    )
    run = recipes.recipe(folder, stages=(stage,), export=False, prompts=())
    (folder / "mesh.json").write_text(json.dumps(to_jsonable(run)))
    meshes = {"one": (), "eight": ("--mesh.fsdp", "4", "--mesh.tensor", "2")}
    for name, arguments in meshes.items():
        code, out = finish(
            process.start(folder / "mesh.json", "--run", name, *arguments, devices=8 if arguments else 1)
        )
        assert code == 0, out
    one, eight = (folder / "runs" / name for name in meshes)
    for got, expected in zip(
        without_timing(eight / "metrics.jsonl"), without_timing(one / "metrics.jsonl"), strict=True
    ):
        assert got.keys() == expected.keys()
        for key, value in expected.items():
            assert got[key] == (pytest.approx(value, rel=1e-5) if isinstance(value, float) else value), key
    trees = [jax.tree.leaves(load_model(run / "stages" / "pretrain").params) for run in (eight, one)]
    for a, b in zip(*trees, strict=True):
        assert np.max(np.abs(a - b)) <= 1e-5 * np.max(np.abs(b))
