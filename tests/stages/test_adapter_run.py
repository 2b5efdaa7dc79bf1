"""Stages with adapters, and one whose reference moves, as commands: what they leave, and that a kill costs nothing."""

import dataclasses
import json
import time

import jax
import numpy as np
import pytest
import stages.recipe as recipes
from stages import process
from stages.process import finish

from jaxpo.checkpoint.store import CheckpointStore
from jaxpo.cli.main import main
from jaxpo.config import Preference
from jaxpo.config.serialise import to_jsonable
from jaxpo.convert.model_io import load_model
from jaxpo.errors import CheckpointError
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.lowrank import adapter_table, scale_of
from jaxpo.models.spec import param_count
from jaxpo.objectives.methods import METHODS
from jaxpo.stages.adapter import load_adapter
from jaxpo.train.metrics import TIMING, read_metrics

FLAGS = (
    *("--sft.lora.rank", "4", "--sft.lora.alpha", "8"),
    *("--preference.lora.target-modules", "*/in_proj/weight", "*/w1/weight", "--preference.lora.use-rslora"),
    *("--moving.sync-ref-model", "--moving.ref-model-sync-steps", "2", "--moving.precompute-ref-log-probs", "False"),
)
STEPS = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """sft -> preference with adapters -> preference with a moving reference, on real text files."""
    folder = tmp_path_factory.mktemp("adapters")
    recipes.write_data(folder)
    run = recipes.recipe(folder, export=False, prompts=())
    short = {"max_steps": STEPS, "save_steps": 2, "eval_steps": 0, "rows_per_step": 8}
    rows = lambda stage: dataclasses.replace(stage.data, block_rows=1)  # noqa: E731
    sft, preference = run.stages[1:3]
    sft = dataclasses.replace(sft, data=rows(sft), **short)
    preference = dataclasses.replace(preference, loss=METHODS["dpo"](), **short)
    moving = Preference(
        **{f.name: getattr(preference, f.name) for f in dataclasses.fields(preference)} | {"name": "moving"}
    )
    for name, stages in (("recipe", (sft, preference, moving)), ("sft", (sft,))):
        document = to_jsonable(dataclasses.replace(run, stages=stages))
        (folder / f"{name}.json").write_text(json.dumps(document))
    return folder


@pytest.fixture(scope="module")
def whole(folder):
    code, out = finish(process.start(folder / "recipe.json", "--run", "whole", *FLAGS))
    assert code == 0, out
    return folder / "runs" / "whole", out


def leaf(tree, path):
    for key in path.split("/"):
        tree = tree[key]
    return np.asarray(tree)


def leaves(tree):
    return [np.asarray(x) for x in jax.tree.leaves(tree)]


def test_the_table_of_what_is_adapted_is_printed(whole):
    table = param_table(recipes.MODEL)
    for name in ("sft", "preference"):
        lora = load_adapter(whole[0] / "stages" / name).lora
        total = param_count(adapter_table(table, lora))
        assert f"LoRA: {total:,} trainable parameters, {total / param_count(table):.2%}" in whole[1]
    assert "layers/*/self_attn/q_proj/weight" in whole[1]
    assert "alpha/sqrt(rank)" in whole[1]


def test_the_next_stage_gets_the_merged_model_and_the_adapter_is_kept(whole):
    for name, path in (("sft", "layers/1/self_attn/k_proj/weight"), ("preference", "layers/0/conv/in_proj/weight")):
        found = load_adapter(whole[0] / "stages" / name)
        a, b = (leaf(found.params, f"{path}/{side}").astype(np.float64) for side in "ab")
        base, result = (leaf(m.params["model"], path) for m in (found.base, found.result))
        update = scale_of(found.lora) * np.tensordot(a, b, axes=1)
        np.testing.assert_allclose(result, base + update, atol=1e-6)
        assert np.abs(update).max() > 1e-3
        for still in ("embed_tokens/weight", "layers/1/self_attn/q_layernorm/weight"):
            np.testing.assert_array_equal(*(leaf(m.params["model"], still) for m in (found.base, found.result)))
    preference = load_adapter(whole[0] / "stages" / "preference")
    assert preference.base.path == whole[0] / "stages" / "sft"
    untouched = "layers/1/self_attn/k_proj/weight"
    np.testing.assert_array_equal(*(leaf(m.params["model"], untouched) for m in (preference.base, preference.result)))


def test_checkpoints_hold_the_adapter_and_its_moments_only(whole):
    stage = whole[0] / "stages" / "sft"
    stored = json.loads((CheckpointStore(stage / "checkpoints").path(STEPS) / "meta" / "meta.json").read_text())
    size = param_count(adapter_table(param_table(recipes.MODEL), load_adapter(stage).lora))
    count = lambda part: sum(int(np.prod(e["shape"])) for n, e in stored["leaves"].items() if n.startswith(part))  # noqa: E731
    assert count("params/adapter/") == count("params/") == size
    assert 2 * size <= count("opt_state/") < 2 * size + 10
    assert "base" in stored["meta"]


def test_training_starts_at_the_base_and_a_moving_reference_is_in_the_state(whole):
    records = read_metrics(whole[0] / "metrics.jsonl")
    first = {r["stage"]: r["loss"] for r in reversed(records) if "loss" in r}
    assert first["preference"] == pytest.approx(np.log(2), abs=1e-5)
    assert first["moving"] == pytest.approx(np.log(2), abs=1e-5)
    store = CheckpointStore(whole[0] / "stages" / "moving" / "checkpoints")
    names = json.loads((store.path(STEPS) / "meta" / "meta.json").read_text())["leaves"]
    assert "carry/reference/embed_tokens/weight" in names


@pytest.mark.slow
def test_killed_beside_a_base_and_a_moving_reference_it_ends_bit_for_bit_the_same(folder, whole):
    metrics = folder / "runs" / "killed" / "metrics.jsonl"
    for stage in ("preference", "moving"):
        running = process.start(folder / "recipe.json", "--run", "killed", *FLAGS)
        while not (metrics.exists() and any(r["stage"] == stage and r["step"] >= 3 for r in read_metrics(metrics))):
            assert running.poll() is None, running.stdout.read()
            time.sleep(0.02)
        process.kill(running)
    code, out = finish(process.start(folder / "recipe.json", "--run", "killed", *FLAGS))
    assert code == 0, out
    runs = (folder / "runs" / "killed", whole[0])
    logs = [
        [{k: v for k, v in r.items() if k not in TIMING} for r in read_metrics(run / "metrics.jsonl")] for run in runs
    ]
    assert logs[0] == logs[1]
    for stage in ("sft", "preference", "moving"):
        for a, b in zip(*(leaves(load_model(run / "stages" / stage).params) for run in runs), strict=True):
            np.testing.assert_array_equal(a, b)
    for stage in ("sft", "preference"):
        for a, b in zip(*(leaves(load_adapter(run / "stages" / stage).params) for run in runs), strict=True):
            np.testing.assert_array_equal(a, b)


def export(*words, capsys):
    code = main(["export", *map(str, words)])
    return code, *capsys.readouterr()


def test_the_adapter_is_exported_with_its_base(whole, tmp_path, capsys):
    stage = whole[0] / "stages" / "preference"
    code, out, err = export(stage, tmp_path / "adapter", "--adapter", "--base", "me/base", capsys=capsys)
    assert (code, err) == (0, "")
    assert out.startswith(f"{tmp_path / 'adapter'}: adapter of rank 16 exported; max log-prob error ")
    document = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert document["base_model_name_or_path"] == "me/base"
    assert document["target_modules"] == ["in_proj", "w1"]
    code, out, _ = export(stage, tmp_path / "nameless", "--adapter", "--no-verify", capsys=capsys)
    base = whole[0] / "stages" / "sft"
    assert f"its base is {base}; `jaxpo export {base} DIR` writes that for transformers" in out


def test_the_adapter_goes_to_llama_cpp(whole, tmp_path, capsys):
    pytest.importorskip("gguf", reason="GGUF files need the gguf package (the extra gguf)")
    stage = whole[0] / "stages" / "preference"
    out = tmp_path / "adapter"
    code, said, err = export(stage, out, "--adapter", "--format", "gguf", capsys=capsys)
    assert (code, err) == (0, "")
    first, _, row, how = said.splitlines()
    assert first == f"{out}: adapter of rank 16 exported"
    assert row.startswith("gguf    adapter-lora-F32.gguf ")
    assert " nats, KL " in row
    assert f"--lora {out / 'adapter-lora-F32.gguf'}; its base is {whole[0] / 'stages' / 'sft'}" in how
    assert {f.name for f in out.iterdir()} == {"adapter-lora-F32.gguf", "README.md", "verification.json"}
    for words, message in (
        (("--dtype", "q8_0"), "--dtype q8_0 is none of an adapter's: f32, f16, bf16"),
        (("--base", "me/base"), "a GGUF adapter names no base"),
    ):
        code, _, err = export(stage, tmp_path / "x", "--adapter", "--format", "gguf", *words, capsys=capsys)
        assert (code, message in err) == (2, True)


@pytest.mark.slow
def test_on_eight_devices_from_an_imported_base_it_ends_the_same(folder, whole, tmp_path, capsys):
    """`model_from` an HF export of the first base: that folder is named as the base, and no copy of it is kept."""
    assert export(whole[0] / "stages" / "sft" / "base", tmp_path / "hf", capsys=capsys)[0] == 0
    words = (
        "--run",
        "mesh",
        *FLAGS[:4],
        "--model-from",
        str(tmp_path / "hf"),
        "--mesh.fsdp",
        "4",
        "--mesh.tensor",
        "2",
    )
    code, out = finish(process.start(folder / "sft.json", *words, devices=8))
    assert code == 0, out
    run = folder / "runs" / "mesh"
    got, expected = load_adapter(run), load_adapter(whole[0] / "stages" / "sft")
    for a, b in zip(leaves(got.base.params), leaves(expected.base.params), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(leaves(got.result.params), leaves(expected.result.params), strict=True):
        assert np.max(np.abs(a - b)) <= 1e-4 * np.max(np.abs(b))
    assert not (run / "stages" / "sft" / "base").exists()
    assert export(run, tmp_path / "adapter", "--adapter", capsys=capsys)[0] == 0
    document = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert document["base_model_name_or_path"] == str(tmp_path / "hf")


def test_export_mistakes(whole, tmp_path, capsys):
    stages = whole[0] / "stages"
    code, _, err = export(whole[0], tmp_path / "a", "--adapter", capsys=capsys)
    assert code == 2
    assert f"{stages / 'moving'} holds no adapter; only stages trained with lora have one. " in err
    assert f"Stages with one: {stages / 'preference'}, {stages / 'sft'}." in err
    assert "it needs --adapter" in export(stages / "sft", tmp_path / "a", "--base", "x", capsys=capsys)[2]


def test_a_base_that_changed_is_refused(whole):
    stage = whole[0] / "stages" / "preference" / "adapter"
    file = next(stage.glob("*/meta/meta.json"))
    original = file.read_text()
    document = json.loads(original)
    document["meta"]["base_hash"] = "0" * 64
    document.pop("digest")  # as an earlier version wrote it: what nobody signed is believed
    file.write_text(json.dumps(document))
    try:
        with pytest.raises(CheckpointError, match="is not the model that the adapter in"):
            load_adapter(whole[0] / "stages" / "preference")
    finally:
        file.write_text(original)


def test_a_pattern_without_a_match_stops_the_run_before_it_makes_anything(folder, capsys):
    words = ("--run", "typo", "--sft.lora.target-modules", "*/q_prj/weight")
    assert main(["run", str(folder / "recipe.json"), *words]) == 2
    message = "sft.lora.target_modules: '*/q_prj/weight' matches no parameter. Did you mean '*/q_proj/weight'"
    assert message in capsys.readouterr().err
    assert not (folder / "runs" / "typo").exists()
