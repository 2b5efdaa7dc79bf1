"""Merging folders: Orbax stages and safetensors, streamed, in the memory of a few leaves; slices; tied embeddings."""

import json
import tracemalloc
from pathlib import Path

import jax
import numpy as np
import pytest
from models.tiny import CONFIG, params

from jaxpo.checkpoint.store import CheckpointStore
from jaxpo.convert.hf import export_hf, import_hf
from jaxpo.convert.model_io import load_model, save_model
from jaxpo.convert.open_model import open_model
from jaxpo.convert.shards import Source, open_shards, write_shards
from jaxpo.errors import CheckpointError, ConfigError
from jaxpo.merge.methods import DareTies, Soup, Ties
from jaxpo.merge.plan import LeafPlan, Plan, plan_models
from jaxpo.merge.stream import merged_leaves
from jaxpo.sharding import make_mesh
from jaxpo.stages.merging.files import (
    leaf_names,
    merge_to_export,
    merge_to_params,
    merge_to_stage,
    open_models,
    stored_leaves,
)


def model(seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: x + np.float32(0.1) * rng.normal(size=x.shape).astype(np.float32), params())


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same three models as HF exports and, two of them, as stages."""
    root = tmp_path_factory.mktemp("models")
    found = {}
    for i in range(3):
        found[f"hf{i}"] = root / f"hf{i}"
        export_hf(model(i), CONFIG, root / f"hf{i}", verify=False)
    for i in range(2):
        found[f"stage{i}"] = root / f"stage{i}"
        save_model(root / f"stage{i}", {"model": model(i)}, CONFIG, {"stage": "sft"})
    return found


def tensors(folder):
    with open_shards(folder) as stored:
        return {name: tensor.read() for name, tensor in stored.items()}


def test_stages_and_exports_have_the_same_leaves(folders):
    with open_model(folders["hf1"]) as export, open_model(folders["stage1"]) as stage:
        assert list(export.leaves) == list(stage.leaves) == leaf_names(CONFIG)
        for name, leaf in stage.leaves.items():
            assert leaf.shape == export.leaves[name].shape
            np.testing.assert_array_equal(leaf.read(), export.leaves[name].read())


def test_every_way_in_and_out_gives_the_same_bits(folders, tmp_path):
    method, base = DareTies(density=0.5), "hf2"
    results = []
    for kind in ("hf", "stage"):
        paths = {name: folders[f"{kind}{i}"] for i, name in enumerate(("a", "b"))}
        with open_models(paths | {base: folders["hf2"]}) as opened:
            plan = plan_models(leaf_names(CONFIG), method, ["a", "b"], base=base, seed=3)
            results.append(dict(merged_leaves(plan, stored_leaves(opened))))
            if kind == "stage":
                merge_to_export(plan, opened, tmp_path / "out", tokenizer=None, max_shard_size="4KB", verify=False)
                inside = merge_to_params(plan, opened, make_mesh({}, jax.devices()[:1]))
                merge_to_stage(plan, opened, tmp_path / "stage", tokenizer=None, trained_on="a and b")
    written, config = import_hf(tmp_path / "out")
    assert config == CONFIG
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1
    for name, values in tensors(tmp_path / "out").items():
        np.testing.assert_array_equal(values, results[0][name])
        np.testing.assert_array_equal(values, results[1][name])
    stage = load_model(tmp_path / "stage").params["model"]
    for a, b, c in zip(jax.tree.leaves(written), jax.tree.leaves(inside), jax.tree.leaves(stage), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)


def test_the_written_merge_is_verified(folders, tmp_path):
    with open_models({"a": folders["hf0"], "b": folders["hf1"]}) as opened:
        plan = plan_models(leaf_names(CONFIG), Soup(), ["a", "b"])
        report = merge_to_export(plan, opened, tmp_path / "out", tokenizer=None, compare_transformers=False)
    assert report["max_logprob_error"] < 1e-4
    assert json.loads((tmp_path / "out" / "verification.json").read_text()) == report


def test_a_tied_output_matrix_is_read_past_and_stored_once(folders, tmp_path):
    found = tensors(folders["hf1"])
    tied = tmp_path / "tied"
    tied.mkdir()
    (tied / "config.json").write_text((folders["hf1"] / "config.json").read_text())

    def write(head):
        everything = found | {"lm_head.weight": head}
        sources = [Source(name, x.shape, lambda x=x: x) for name, x in everything.items()]
        write_shards(tied, sources, "float32", 10**9)

    write(found["model.embed_tokens.weight"])
    with open_models({"a": folders["hf0"], "b": tied}) as opened:
        plan = plan_models(leaf_names(CONFIG), Soup(), ["a", "b"])
        merge_to_export(plan, opened, tmp_path / "out", tokenizer=None, verify=False)
    assert "lm_head.weight" not in tensors(tmp_path / "out")
    write(found["model.embed_tokens.weight"] + 1)
    with pytest.raises(CheckpointError, match=r"not part of the model: lm_head.weight"), open_model(tied):
        pass


def test_layers_of_two_models_are_stacked(folders, tmp_path):
    from jaxpo.merge.mergekit.plan import plan_document
    from jaxpo.merge.mergekit.yaml import read_document

    (tmp_path / "stack.yaml").write_text(
        f"""
slices:
  - sources: [{{model: {folders["hf0"]}, layer_range: [0, 2]}}]
  - sources: [{{model: {folders["hf1"]}, layer_range: [1, 3]}}]
merge_method: passthrough
"""
    )
    document = read_document(tmp_path / "stack.yaml")
    with open_models({name: Path(name) for name in document.models}) as opened:
        plan = plan_document(document, {name: list(m.leaves) for name, m in opened.items()})
        report = merge_to_export(plan, opened, tmp_path / "deep", tokenizer=None, compare_transformers=False)
    stacked, config = import_hf(tmp_path / "deep")
    assert config.layer_types == ("conv", "full_attention", "full_attention", "conv")
    assert report["max_logprob_error"] < 1e-4
    for made, (origin, layer) in enumerate(((0, 0), (0, 1), (1, 1), (1, 2))):
        expected = model(origin)["layers"][str(layer)]
        assert jax.tree.all(jax.tree.map(np.array_equal, stacked["layers"][str(made)], expected))


def test_layers_of_different_kinds_are_refused_by_leaf(folders):
    names = leaf_names(CONFIG)
    with open_models({"a": folders["hf0"], "b": folders["hf1"]}) as opened:
        conv = next(n for n in names if ".layers.0.conv" in n)
        parts = (("a", conv), ("b", conv.replace("layers.0", "layers.1")))
        plan = Plan((LeafPlan(conv, Soup(), parts, (0.5, 0.5)),), layers=(("a", 0),))
        with pytest.raises(ConfigError, match=r"b lacks model.layers.1.conv"):
            next(merged_leaves(plan, stored_leaves(opened)))


def test_reward_models_are_refused(tmp_path):
    value = {"weight": np.zeros((CONFIG.hidden_size, 1), np.float32)}
    tree = jax.tree.map(jax.numpy.asarray, {"model": params(), "value": value})
    save_model(tmp_path / "reward", tree, CONFIG, {"stage": "reward"})
    with (
        pytest.raises(CheckpointError, match="is a reward model; its head cannot be merged"),
        open_model(tmp_path / "reward"),
    ):
        pass


LEAF = 1 << 20
LEAVES = 16


def big(folder, seed):
    rng = np.random.default_rng(seed)
    sources = [
        Source(f"w{i:02d}", (256, 1024), lambda: rng.normal(size=(256, 1024)).astype(np.float32)) for i in range(LEAVES)
    ]
    folder.mkdir()
    write_shards(folder, sources, "float32", 10**9)
    return folder


@pytest.mark.parametrize("method", [Soup(), Ties(density=0.5)], ids=lambda m: m.NAME)
def test_the_peak_is_some_leaves_not_the_models(tmp_path, method, monkeypatch):
    """Three models of 16 leaves each, 48 if they were loaded.

    Held are one leaf of each and two results (the one being made and the one being written), and what the method needs
    besides: for TIES two masks and the magnitudes of one model, and on every core some blocks, of which these small
    leaves have four.
    """
    import contextlib

    from jaxpo.merge import blocks

    monkeypatch.setattr(blocks, "CORES", 2)
    from jaxpo.convert.shards import ShardWriter

    names = ["a", "b", "c"]
    base = "c" if method.BASE == "required" else None
    folders = [big(tmp_path / name, i) for i, name in enumerate(names)]
    shapes = {f"w{i:02d}": (256, 1024) for i in range(LEAVES)}
    with contextlib.ExitStack() as stack:
        models = {n: stack.enter_context(open_shards(f)) for n, f in zip(names, folders, strict=True)}
        plan = plan_models(list(shapes), method, names, base=base)
        (tmp_path / "out").mkdir()
        tracemalloc.start()
        try:
            with ShardWriter(tmp_path / "out", shapes, "float32", 10**9) as writer:
                for name, values in merged_leaves(plan, models):
                    writer.write(name, values)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < (6.3 if base is None else 9.5) * LEAF


def test_stages_are_read_one_leaf_at_a_time(folders, monkeypatch):
    seen = []
    original = CheckpointStore.restore_leaf

    def counted(self, step, part, abstract):
        seen.append((part, len(jax.tree.leaves(abstract))))
        return original(self, step, part, abstract)

    monkeypatch.setattr(CheckpointStore, "restore_leaf", counted)
    with open_models({"a": folders["stage0"], "b": folders["stage1"]}) as opened:
        plan = plan_models(leaf_names(CONFIG), Soup(), ["a", "b"])
        leaves = merged_leaves(plan, stored_leaves(opened))
        next(leaves)
        assert [count for _, count in seen] == [1, 1]
        for _ in leaves:
            pass
    assert len(seen) == 2 * len(leaf_names(CONFIG))
    assert {count for _, count in seen} == {1}
