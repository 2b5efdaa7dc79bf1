"""`jaxpo run` as two processes that share a run directory, and as one process whose peer never comes."""

import dataclasses
import json
import time

import numpy as np
import pytest
import stages.recipe as recipes
from stages.process import finish, kill, places, start

from jaxpo.config.serialise import to_jsonable
from jaxpo.convert.hf import import_hf
from jaxpo.evaluate.probes import BitsPerByte
from jaxpo.train.metrics import read_metrics


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """One stage of two steps, and what follows the last: a probe, export, report."""
    folder = tmp_path_factory.mktemp("recipe")
    recipes.write_data(folder)
    whole = recipes.recipe(folder)
    stage = dataclasses.replace(whole.stages[0], max_steps=2, eval_steps=2, gradient_accumulation_steps=1)
    file = folder / "recipe.json"
    probe = BitsPerByte(files=(str(folder / "text_eval.jsonl"),))
    # Every process compiles for itself what spans both: one layer is enough.
    model = dataclasses.replace(whole.model, layer_types=("full_attention",))
    run = dataclasses.replace(whole, model=model, stages=(stage,), probes=(probe,), prompts=())
    file.write_text(json.dumps(to_jsonable(run)))
    return file


@pytest.fixture
def together():
    """Starts processes, all of which are gone afterwards."""
    running = []

    def begin(*arguments, places, devices):
        running.extend(start(*arguments, devices=devices, environ=place) for place in places)
        return [finish(process) for process in running]

    yield begin
    for process in running:
        if process.poll() is None:
            kill(process)


@pytest.mark.slow  # three whole processes; tests/train/test_two_processes.py trains in two of them
def test_two_processes_make_one_run(config, together):
    """Equal to one process with as many devices, to float32 rounding; the first alone writes and speaks."""
    (code, out), (code_1, out_1) = together(config, "--run", "two", places=places(2), devices=1)
    assert (code, code_1) == (0, 0), out + out_1
    assert "export verified" in out
    assert "pretrain" not in out_1

    alone = start(config, "--run", "one", devices=2)
    code, out = finish(alone)
    assert code == 0, out
    one, two = (config.parent / "runs" / name for name in ("one", "two"))
    assert sorted(p.name for p in one.iterdir()) == sorted(p.name for p in two.iterdir())
    logs = [list(read_metrics(run / "metrics.jsonl")) for run in (one, two)]
    assert [r["num_tokens"] for r in logs[0]] == [r["num_tokens"] for r in logs[1]]
    for name in ("loss", "grad_norm", "eval_loss"):
        values = [[r[name] for r in log if name in r] for log in logs]
        assert values[0]
        np.testing.assert_allclose(*values, rtol=1e-5)
    weights = [import_hf(run / "export")[0]["embed_tokens"]["weight"] for run in (one, two)]
    np.testing.assert_allclose(*weights, rtol=1e-4, atol=1e-6)
    summaries = [json.loads((run / "summary.json").read_text()) for run in (one, two)]
    for stage in ("initial", "pretrain"):
        bits = [summary["probes"][stage]["bits_per_byte"]["value"] for summary in summaries]
        np.testing.assert_allclose(*bits, rtol=1e-5)


def test_a_peer_that_never_comes_is_named_in_time(config, together):
    place = places(2, JAXPO_START_TIMEOUT="1")[:1]
    began = time.monotonic()
    [(code, out)] = together(config, "--run", "half", places=place, devices=1)
    assert code == 2, out
    assert f"process 1 did not come: 1 of 2 are missing at {place[0]['JAX_COORDINATOR_ADDRESS']} (process 0)" in out
    assert time.monotonic() - began < 60
    assert not (config.parent / "runs" / "half").exists()
