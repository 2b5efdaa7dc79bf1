"""Mixtures of experts merge leaf by leaf, one expert at a time, from exports and stages alike."""

import contextlib
import gc
import weakref

import jax
import numpy as np
import pytest
from models.tiny_moe import CONFIG, params

from jaxpo.checkpoint.store import CheckpointStore
from jaxpo.convert.hf import export_hf, import_hf
from jaxpo.convert.model_io import save_model
from jaxpo.convert.open_model import open_model
from jaxpo.convert.shards import open_shards
from jaxpo.merge.methods import Soup
from jaxpo.merge.plan import plan_models
from jaxpo.sharding import make_mesh
from jaxpo.stages.merging.files import leaf_names, merge_to_export, merge_to_params, open_models


def test_a_soup_of_an_export_and_a_stage_is_their_mean(tmp_path):
    other = jax.tree.map(lambda x: x * np.float32(1.5) - np.float32(0.1), params())
    export_hf(params(), CONFIG, tmp_path / "a", verify=False)
    save_model(tmp_path / "b", {"model": other}, CONFIG, {"stage": "sft"})
    with open_models({"a": tmp_path / "a", "b": tmp_path / "b"}) as opened:
        plan = plan_models(leaf_names(CONFIG), Soup(), ["a", "b"], seed=0)
        inside = merge_to_params(plan, opened, make_mesh({}, jax.devices()[:1]))
        merge_to_export(plan, opened, tmp_path / "out", tokenizer=None, dtype="bfloat16", verify=False)
    for found, a, b in zip(*map(jax.tree.leaves, (inside, params(), other)), strict=True):
        np.testing.assert_allclose(found, (np.asarray(a) + np.asarray(b)) / 2, atol=1e-6)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-2), import_hf(tmp_path / "out")[0], inside)
    with open_shards(tmp_path / "out") as stored:
        assert {n.rpartition(".")[2]: t.dtype for n, t in stored.items()} == {"weight": "BF16", "expert_bias": "F32"}


@contextlib.contextmanager
def _of_stage(folder):
    save_model(folder / "stage", {"model": params()}, CONFIG, {"stage": "sft"})
    reads, restore = [], CheckpointStore.restore_leaf

    def counted(self, step, path, abstract):
        reads.append(path)
        return restore(self, step, path, abstract)

    with pytest.MonkeyPatch.context() as patch, open_model(folder / "stage") as opened:
        patch.setattr(CheckpointStore, "restore_leaf", counted)
        yield opened.leaves, reads


def test_one_matrix_of_experts_is_held_at_a_time(tmp_path):
    with _of_stage(tmp_path) as (found, reads):

        def read(layer, expert):
            return found[f"model.layers.{layer}.feed_forward.experts.{expert}.w1.weight"].read()

        part = read(1, 0)
        whole = part.base
        assert whole.shape[0] == 8
        assert read(1, 7).base is whole
        assert len(reads) == 1
        held, kept = weakref.ref(whole), part.copy()
        del part, whole
        read(2, 0)
        gc.collect()
        assert held() is None
        assert len(reads) == 2
        assert read(1, 0).shape == kept.shape
        assert len(reads) == 3
