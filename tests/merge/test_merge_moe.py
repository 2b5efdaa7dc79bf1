"""Mixtures of experts merge leaf by leaf, one expert at a time, from exports and stages alike."""

import jax
import numpy as np
from models.tiny_moe import CONFIG, params

from jaxpo.convert.hf import export_hf, import_hf
from jaxpo.convert.shards import open_shards
from jaxpo.merge.methods import Soup
from jaxpo.merge.plan import plan_models
from jaxpo.sharding import make_mesh
from jaxpo.stages.merge_files import leaf_names, merge_to_export, merge_to_params, open_models
from jaxpo.stages.model_io import save_model


def test_a_soup_of_an_export_and_a_stage_is_their_mean(tmp_path):
    other = jax.tree.map(lambda x: x * np.float32(1.5) - np.float32(0.1), params())
    export_hf(params(), CONFIG, tmp_path / "a", verify=False)
    save_model(tmp_path / "b", {"model": other}, CONFIG, {"stage": "sft"})
    with open_models({"a": tmp_path / "a", "b": tmp_path / "b"}) as opened:
        plan = plan_models(leaf_names(CONFIG), Soup(), ["a", "b"], seed=0)
        inside = merge_to_params(plan, opened, make_mesh({}, jax.devices()[:1]))
        merge_to_export(plan, opened, tmp_path / "out", tokenizer=None, dtype="bfloat16", check=False)
    for found, a, b in zip(*map(jax.tree.leaves, (inside, params(), other)), strict=True):
        np.testing.assert_allclose(found, (np.asarray(a) + np.asarray(b)) / 2, atol=1e-6)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-2), import_hf(tmp_path / "out")[0], inside)
    with open_shards(tmp_path / "out") as stored:
        assert {n.rpartition(".")[2]: t.dtype for n, t in stored.items()} == {"weight": "BF16", "expert_bias": "F32"}
