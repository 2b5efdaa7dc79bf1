"""A whole run whose files are damaged while it is away: it goes on, says what was wrong, and ends as it would have."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import stages.recipe as recipes

from jaxpo.checkpoint.fingerprint import fingerprint
from jaxpo.checkpoint.store import CheckpointStore
from jaxpo.cli.main import main
from jaxpo.config import SFT, Preference
from jaxpo.config.serialise import to_jsonable
from jaxpo.convert.model_io import load_model, read_config, read_heads
from jaxpo.errors import CheckpointError, DataError
from jaxpo.objectives.methods import METHODS
from jaxpo.stages.adapter import load_adapter
from jaxpo.train.metrics import TIMING, read_metrics

pytestmark = [pytest.mark.scale, pytest.mark.usefixtures("one_device")]
STEPS = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    recipes.write_data(folder)
    run = recipes.recipe(folder, prompts=(), export=False)
    _, sft, preference, _ = run.stages
    common = {"max_steps": STEPS, "save_steps": 2, "eval_steps": 0, "save_total_limit": 3}
    sft = dataclasses.replace(sft, data=dataclasses.replace(sft.data, curriculum=None), snapshot_steps=0, **common)
    preference = dataclasses.replace(preference, loss=METHODS["dpo"](), **common)
    assert (type(sft), type(preference)) == (SFT, Preference)
    run = dataclasses.replace(run, stages=(sft, preference))
    (folder / "recipe.json").write_text(json.dumps(to_jsonable(run)))
    return folder


@pytest.fixture(scope="module")
def whole(folder, one_device):
    assert main(["run", str(folder / "recipe.json"), "--run", "whole"]) == 0
    return folder / "runs" / "whole"


def away(whole, name):
    """A copy that was killed after the last checkpoint of its last stage."""
    copy = whole.parent / name
    shutil.copytree(whole, copy)
    (copy / "finished.json").unlink()
    shutil.rmtree(copy / "stages" / "preference" / "model")
    return copy


def flip(file, at=0.5):
    data = bytearray(file.read_bytes())
    data[int(len(data) * at)] ^= 1
    file.write_bytes(bytes(data))


def log(run):
    return [{k: v for k, v in r.items() if k not in TIMING} for r in read_metrics(run / "metrics.jsonl")]


def assert_same(run, whole):
    assert log(run) == log(whole)
    for stage in ("sft", "preference"):
        found, expected = (fingerprint(load_model(r / "stages" / stage).params) for r in (run, whole))
        assert found == expected, stage


def test_damage_in_every_room_at_once(folder, whole, capfd):
    """A finished model, tokenised rows, reference log-probs, the newest checkpoint; leftovers of killed processes."""
    run = away(whole, "damaged")
    stage = run / "stages" / "preference"
    largest = max((run / "stages/sft/model/00000000/state").rglob("*"), key=lambda p: p.stat().st_size)
    flip(largest)
    caches = sorted(p for p in (run / "data").iterdir())
    flip(caches[0] / "examples.array_record")
    (caches[1] / "lengths.npz").write_bytes(b"")
    (caches[2] / "meta.json").write_text("")
    flip(max(stage.glob("reference/*/values.f32"), key=lambda p: p.stat().st_size))
    described = stage / "checkpoints" / "00000006" / "meta" / "meta.json"
    described.write_text(described.read_text().replace("preference", "preferance", 1))
    (stage / "checkpoints" / "00000004" / "state" / "manifest.ocdbt").unlink()
    left = [
        run / ".summary.json.4711.tmp",
        run / "data" / ".0123456789abcdef.x1y2",
        stage / "checkpoints" / "9.deleting",
    ]
    left[0].write_text("{")
    left[1].mkdir()
    left[2].mkdir()
    (stage / "checkpoints" / "00000009.orbax-checkpoint-tmp").write_text("a file")
    (run / "summary.json").write_text("")
    assert main(["run", str(folder / "recipe.json"), "--run", "damaged"]) == 0
    out = capfd.readouterr().out
    assert "model/00000000 is damaged: " in out
    assert "It is kept as 00000000.damaged, and made again from what the stage keeps" in out
    assert out.count("is damaged (") == 3
    assert "the values of 1 segments are not those that were written. They are computed again." in out
    assert (
        "meta.json is not as it was written. It is kept as 00000006.damaged, and the stage goes on from step 4" in out
    )
    assert "manifest.ocdbt is missing. It is kept as 00000004.damaged, and the stage goes on from step 2" in out
    assert "resuming at step 2 of stage preference" in out
    assert "summary.json is not valid JSON: it is kept as summary.json.damaged and begun again" in out
    assert_same(run, whole)
    steps = sorted(p.name for p in (stage / "checkpoints").iterdir())
    assert steps == ["00000002", "00000004", "00000004.damaged", "00000006", "00000006.damaged"]
    assert not any(p.exists() for p in left)


def test_a_lock_that_is_a_folder_is_named(folder, whole, capfd):
    run = away(whole, "locked")
    (run / "lock").unlink()
    (run / "lock").mkdir()
    assert main(["run", str(folder / "recipe.json"), "--run", "locked"]) == 2
    assert "lock is a folder where a run keeps its lock, a file. Move it away" in capfd.readouterr().err


def test_a_checkpoint_is_a_model_to_start_from(folder, whole, capfd):
    """That of the last step is the stage's model; a run starts from another, with another learning rate."""
    checkpoints = whole / "stages" / "sft" / "checkpoints"
    stage, last = load_model(whole / "stages" / "sft"), load_model(checkpoints / "00000006")
    assert fingerprint(last.params) == fingerprint(stage.params)
    assert (last.config, read_config(checkpoints / "00000002")) == (stage.config, stage.config)
    assert read_heads(checkpoints / "00000002") == ()
    assert last.about == {"stage": "sft, step 6", "trained_on": stage.about["trained_on"]}
    assert last.tokenizer is not None
    earlier = load_model(checkpoints / "00000002")
    stored = CheckpointStore(checkpoints)
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), earlier.params)
    jax.tree.map(np.testing.assert_array_equal, earlier.params, stored.restore_part(2, "params", abstract)[0])
    command = [
        "run",
        str(folder / "recipe.json"),
        "--run",
        "branch",
        "--sft.max-steps",
        "2",
        "--preference.max-steps",
        "2",
    ]
    command += ["--sft.init-from", str(checkpoints / "00000002"), "--sft.optimizer.learning-rate", "1e-12"]
    assert main(command) == 0
    branch = load_model(whole.parent / "branch" / "stages" / "sft")
    near = lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-9)  # noqa: E731
    jax.tree.map(near, branch.params, earlier.params)
    with pytest.raises(CheckpointError, match="is a checkpoint; an adapter is read from its stage"):
        load_adapter(checkpoints / "00000002")


def test_a_row_that_float32_cannot_hold_is_named_before_anything_is_trained(folder, capfd):
    rows = [json.loads(line) for line in (folder / "pref_train.jsonl").read_text().splitlines()]
    rows = [{**row, "margin": 1e300 if n == 6 else 0.5} for n, row in enumerate(rows)]
    (folder / "margins.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [
        "run",
        str(folder / "recipe.json"),
        "--run",
        "margin",
        "--preference.data.train",
        str(folder / "margins.jsonl"),
    ]
    assert main(command) == 2
    error = capfd.readouterr().err
    assert "margins.jsonl, row 7, field 'margin': 1e+300 is outside the range of float32" in error
    assert DataError.__name__ not in error
