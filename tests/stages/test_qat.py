"""A stage that trains on a grid of few bits: it hands on the very weights that it was trained with, and refuses
what they do not go with."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import stages.recipe as recipes
from stages.process import on_devices

from jaxpo.cli.main import main
from jaxpo.config import QAT, LoRA
from jaxpo.config.serialise import to_jsonable
from jaxpo.convert.gguf.read import open_gguf
from jaxpo.convert.model_io import load_model
from jaxpo.errors import CheckpointError
from jaxpo.models.family import param_table
from jaxpo.models.grids import rounded_model
from jaxpo.models.spec import leaves
from jaxpo.ops.grids import grid
from jaxpo.recipe.checks.run import find_problems


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """pretrain on q4_0, a few steps."""
    folder = tmp_path_factory.mktemp("qat")
    recipes.write_data(folder)
    run = recipes.recipe(folder, export=False, prompts=())
    first = dataclasses.replace(run.stages[0], max_steps=6, save_steps=3, eval_steps=0, qat=QAT())
    (folder / "recipe.json").write_text(json.dumps(to_jsonable(dataclasses.replace(run, stages=(first,)))))
    with pytest.MonkeyPatch.context() as patch:
        on_devices(patch, 1)
        patch.chdir(folder)
        assert main(["run", str(folder / "recipe.json"), "--run", "one"]) == 0
    return folder / "runs" / "one", folder


def test_the_stage_hands_on_weights_that_lie_on_the_grid(trained):
    run, _ = trained
    model = load_model(run)
    params, config, to = model.params["model"], model.config, grid("q4_0")
    again = jax.jit(rounded_model, static_argnums=(1, 2))(params, config, to)
    jax.tree.map(np.testing.assert_array_equal, params, again)
    w = np.asarray(params["layers"]["0"]["conv"]["out_proj"]["weight"])
    assert len(np.unique(w[:, 0])) <= 16


def test_a_gguf_file_of_it_holds_the_very_weights(trained, tmp_path):
    pytest.importorskip("gguf")
    run, _ = trained
    argv = ["export", str(run), str(tmp_path / "out"), "--format", "gguf", "--dtype", "q4_0", "--no-verify"]
    assert main(argv) == 0
    opened = open_gguf(tmp_path / "out" / "out-Q4_0.gguf")
    model = load_model(run)
    table = dict(leaves(param_table(model.config)))
    flat = dict(zip(table, jax.tree.leaves(model.params["model"]), strict=True))
    seen = 0
    for path, param in table.items():
        if isinstance(param.hf, str) and len(param.shape) > 1 and "conv/conv" not in path:
            stored = opened.tensors[param.hf]
            wanted = param.layout.to_disk(np.asarray(flat[path], np.float32))
            if wanted.shape[-1] % 32 == 0:
                assert np.array_equal(stored.read().reshape(wanted.shape), wanted), path
                seen += 1
    assert seen >= 6


def test_a_checkpoint_of_it_is_not_mistaken_for_a_model(trained):
    run, _ = trained
    with pytest.raises(CheckpointError, match=r"rounds to q4_0, before they are rounded"):
        load_model(run / "stages" / "pretrain" / "checkpoints" / "00000006")


def test_what_it_does_not_go_with(recipe):
    pretrain, sft, preference, *rest = recipe.stages

    def problems(**changes):
        changed = dataclasses.replace(preference, **changes)
        return " ".join(find_problems(dataclasses.replace(recipe, stages=(pretrain, sft, changed, *rest))))

    assert "an adapter is added" in problems(qat=QAT(), lora=LoRA())
    assert "sync_ref_model would move" in problems(qat=QAT(), sync_ref_model=True, precompute_ref_log_probs=False)
    assert "q4_0 has groups of 32" in problems(qat=QAT(group=16))
    assert "or 0 for whole rows" in problems(qat=QAT("int4", -1))
    assert "qat" not in problems(qat=QAT("int8", 0))
