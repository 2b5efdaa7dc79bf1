"""PEFT adapter folders: names, shapes and settings; verified against another forward; every way they can be wrong."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.adapters import drawn
from models.tiny import CONFIG, LFM3, params
from safetensors.numpy import load_file, save_file

from jaxpo.config import LoRA
from jaxpo.convert.peft import export_peft, target_modules, verify_peft
from jaxpo.errors import CheckpointError
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.lowrank import adapter_table, merge, scale_of

TABLE = param_table(CONFIG)
LORA = LoRA(rank=3, alpha=2.5, use_rslora=True)


def adapter(lora=LORA):
    return drawn(adapter_table(TABLE, lora))


def export(folder, lora=LORA, **options):
    return export_peft(adapter(lora), lora, params(), CONFIG, folder, **options)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("peft") / "adapter"
    return folder, export(folder, base_name="some/base")


def test_files_names_and_shapes(exported):
    folder, report = exported
    names = {"adapter_config.json", "adapter_model.safetensors", "verification.json", "README.md"}
    assert {f.name for f in folder.iterdir()} == names
    tensors = load_file(folder / "adapter_model.safetensors")
    prefix = "base_model.model.model.layers"
    d, f, r = CONFIG.hidden_size, CONFIG.intermediate_size, 3
    assert tensors[f"{prefix}.0.conv.in_proj.lora_A.weight"].shape == (r, d)
    assert tensors[f"{prefix}.0.conv.in_proj.lora_B.weight"].shape == (3 * d, r)
    assert tensors[f"{prefix}.1.self_attn.k_proj.lora_B.weight"].shape == (2 * CONFIG.head_dim, r)
    assert tensors[f"{prefix}.2.feed_forward.w2.lora_A.weight"].shape == (r, f)
    assert len(tensors) == 2 * 17
    a = np.asarray(adapter()["layers"]["0"]["conv"]["in_proj"]["weight"]["a"])
    np.testing.assert_array_equal(tensors[f"{prefix}.0.conv.in_proj.lora_A.weight"], a.T)
    assert report["max_logprob_error"] < 1e-4
    assert abs(report["kl"]) < 1e-8
    assert json.loads((folder / "verification.json").read_text()) == report


def test_an_adapter_of_lfm3_is_verified_under_the_names_that_peft_sees(tmp_path):
    table = adapter_table(param_table(LFM3), LORA)
    report = export_peft(drawn(table), LORA, params(LFM3), LFM3, tmp_path / "adapter")
    assert report["max_logprob_error"] < 1e-4
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    gate = "base_model.model.model.layers.2.self_attn.g_proj.lora_B.weight"
    assert tensors[gate].shape == (LFM3.num_attention_heads, 3)
    document = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert {"g_proj", "o_proj", "out_proj"} <= set(document["target_modules"])
    assert not {"gate_proj", "lm_head"} & set(document["target_modules"])


def test_the_settings_are_pefts(exported):
    document = json.loads((exported[0] / "adapter_config.json").read_text())
    assert document["target_modules"] == ["in_proj", "k_proj", "out_proj", "q_proj", "v_proj", "w1", "w2", "w3"]
    expected = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 3, "lora_alpha": 2.5, "use_rslora": True,
        "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": False, "base_model_name_or_path": "some/base",
    }  # fmt: skip
    assert expected.items() <= document.items()


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (("*/q_proj/weight",), ["q_proj"]),
        (("*/w1/weight", "layers/0/*/w2/weight"), ["model.layers.0.feed_forward.w2", "w1"]),
        (("*/conv/out_proj/weight",), ["model.layers.0.conv.out_proj", "model.layers.2.conv.out_proj"]),
    ],
)
def test_modules_are_named_shortly_only_where_all_of_that_name_are_adapted(patterns, expected, tmp_path):
    lora = LoRA(rank=2, target_modules=patterns)
    assert target_modules(TABLE, adapter_table(TABLE, lora)) == expected
    assert export(tmp_path / "some", lora)["max_logprob_error"] < 1e-4


def test_bfloat16_reports_what_rounding_costs(tmp_path):
    report = export(tmp_path / "half", dtype="bfloat16")
    assert report["max_logprob_error"] < 1e-4
    assert report["rounding"]["max_logprob_error"] > 1e-3


def check(folder, merged=None):
    lora = LORA
    merged = merge(params(), adapter(), scale_of(lora)) if merged is None else merged
    return verify_peft(adapter(), lora, params(), merged, CONFIG, folder, "float32")


@pytest.fixture
def copy(exported, tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in exported[0].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.mark.parametrize("change", [{"r": 4}, {"lora_alpha": 3}, {"use_rslora": False}])
def test_a_wrong_scale_is_found(copy, change):
    assert check(copy)["max_logprob_error"] < 1e-4
    file = copy / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(CheckpointError, match="do not compute what the merged model computes"):
        check(copy)


def test_one_wrong_tensor_is_found(copy):
    file = copy / "adapter_model.safetensors"
    tensors = load_file(file)
    name = "base_model.model.model.layers.2.conv.in_proj.lora_B.weight"
    gates = tensors[name].reshape(3, -1, 3)
    save_file(tensors | {name: np.ascontiguousarray(gates[[1, 0, 2]]).reshape(tensors[name].shape)}, file)
    with pytest.raises(CheckpointError, match="do not compute what the merged model computes"):
        check(copy)


def test_another_merged_model_is_found(copy):
    other = merge(params(), jax.tree.map(lambda x: 1.2 * x, adapter()), scale_of(LORA))
    with pytest.raises(CheckpointError, match="do not compute what the merged model computes"):
        check(copy, other)


@pytest.mark.parametrize("targets", [["q_proj"], ["in_proj", "k_proj", "out_proj", "q_proj", "v_proj", "w1", "w2"]])
def test_modules_that_the_file_does_not_hold_are_found(copy, targets):
    file = copy / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"target_modules": targets}))
    with pytest.raises(CheckpointError, match="does not name the modules"):
        check(copy)


def test_nothing_half_made_stays(tmp_path, exported):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("mine")
    with pytest.raises(CheckpointError, match="exists already"):
        export(tmp_path / "there")
    with pytest.raises(CheckpointError, match="do not compute"):
        export(tmp_path / "wrong", merged=jax.tree.map(lambda x: jnp.asarray(1.1 * x), params()))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["there"]
