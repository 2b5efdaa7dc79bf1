"""Mixtures of experts as files: one tensor per expert, the bias in float32, fused experts read, what is wrong named."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.tiny_moe import CONFIG, params
from safetensors.numpy import load_file, save_file

from jaxpo.cli.main import main
from jaxpo.convert.config_json import config_from_json, config_to_json
from jaxpo.convert.hf import export_hf, import_hf
from jaxpo.convert.reward_hf import export_reward, import_reward, is_reward
from jaxpo.errors import CheckpointError

QUIET = {"compare_transformers": False}
FED = "model.layers.1.feed_forward"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("moe") / "model"
    return folder, export_hf(params(), CONFIG, folder, **QUIET)


@pytest.fixture
def copy(exported, tmp_path):
    for file in exported[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path, load_file(tmp_path / "model.safetensors")


def test_round_trip_is_bit_exact_and_verified(exported):
    folder, report = exported
    again, config = import_hf(folder)
    assert config == CONFIG
    jax.tree.map(np.testing.assert_array_equal, again, params())
    assert report["max_logprob_error"] < 1e-4
    stored = load_file(folder / "model.safetensors")
    experts = params()["layers"]["1"]["feed_forward"]["experts"]
    np.testing.assert_array_equal(stored[f"{FED}.experts.5.w1.weight"], experts["w1"]["weight"][5].T)
    np.testing.assert_array_equal(stored[f"{FED}.experts.7.w2.weight"], experts["w2"]["weight"][7].T)
    assert stored[f"{FED}.gate.weight"].shape == (8, 16)
    document = json.loads((folder / "config.json").read_text())
    assert (document["model_type"], document["architectures"]) == ("lfm2_moe", ["Lfm2MoeForCausalLM"])
    assert document["num_experts_per_tok"] == 3


def test_bfloat16_keeps_the_bias_in_float32(tmp_path):
    report = export_hf(params(), CONFIG, tmp_path / "m", dtype="bfloat16", max_shard_size="3KB", **QUIET)
    assert report["max_logprob_error"] < 1e-3 < report["rounding"]["max_logprob_error"]
    again, _ = import_hf(tmp_path / "m", dtype=jnp.bfloat16)
    fed, own = again["layers"]["1"]["feed_forward"], params()["layers"]["1"]["feed_forward"]
    np.testing.assert_array_equal(fed["expert_bias"]["bias"], own["expert_bias"]["bias"])
    assert fed["expert_bias"]["bias"].dtype == jnp.float32
    assert fed["gate"]["weight"].dtype == jnp.bfloat16
    index = json.loads((tmp_path / "m" / "model.safetensors.index.json").read_text())
    size = sum(p.size * (4 if p.dtype == np.float32 else 2) for p in jax.tree.leaves(again))
    assert index["metadata"]["total_size"] == size


def test_experts_fused_as_in_transformers_memory_are_read(copy):
    folder, tensors = copy
    for i in (1, 2):
        prefix = f"model.layers.{i}.feed_forward.experts"
        w1, w2, w3 = (np.stack([tensors.pop(f"{prefix}.{e}.{w}.weight") for e in range(8)]) for w in ("w1", "w2", "w3"))
        tensors[f"{prefix}.gate_up_proj"], tensors[f"{prefix}.down_proj"] = np.concatenate([w1, w3], axis=1), w2
    save_file(tensors, folder / "model.safetensors")
    jax.tree.map(np.testing.assert_array_equal, import_hf(folder)[0], params())


def test_a_checkpoint_without_expert_bias_says_what_to_do(copy):
    folder, tensors = copy
    del tensors[f"{FED}.expert_bias"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"missing: {FED}.expert_bias \(.*set use_expert_bias to false"):
        import_hf(folder)


def test_a_missing_expert_is_named(copy):
    folder, tensors = copy
    del tensors[f"{FED}.experts.3.w2.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"missing: {FED}.experts.3.w2.weight\.$"):
        import_hf(folder)


def test_a_configuration_that_asks_for_too_many_experts_names_the_file(copy):
    folder, _ = copy
    document = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(document | {"num_experts_per_tok": 9}))
    with pytest.raises(CheckpointError, match=r"config.json: .*num_experts_per_tok is 9 and there are 8 experts"):
        import_hf(folder)


def test_defaults_are_those_of_transformers():
    document = config_to_json(CONFIG, "float32")
    bare = {k: v for k, v in document.items() if "expert" not in k and k not in ("norm_topk_prob", "num_dense_layers")}
    config = config_from_json(bare)
    assert (config.num_experts, config.num_experts_per_tok, config.num_dense_layers) == (32, 4, 2)
    assert config.norm_topk_prob
    assert config.use_expert_bias


@pytest.mark.slow
def test_reward_models(tmp_path):
    head = {"weight": jnp.asarray(np.random.default_rng(0).standard_normal((16, 1)), jnp.float32)}
    folder = tmp_path / "r"
    report = export_reward({"model": params(), "value": head}, CONFIG, folder, **QUIET)
    assert report["max_reward_error"] < 1e-4
    assert is_reward(folder)
    assert main(["import", str(folder), str(tmp_path / "out")]) == 2
    jax.tree.map(np.testing.assert_array_equal, import_reward(folder)[0]["model"], params())
    assert "class Lfm2MoeForSequenceClassification" in (folder / "modeling_lfm2_reward.py").read_text()


@pytest.mark.slow
def test_unbiased_and_unnormalised_models_export(tmp_path):
    config = dataclasses.replace(CONFIG, use_expert_bias=False, norm_topk_prob=False, num_dense_layers=0)
    report = export_hf(params(config), config, tmp_path / "m", **QUIET)
    assert report["max_logprob_error"] < 1e-4
    assert import_hf(tmp_path / "m")[1] == config
