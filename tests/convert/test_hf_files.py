"""Export and import of safetensors folders: exactness, shards, every way a file can be wrong, interruption."""

import dataclasses
import json
import pickle
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.tiny import CONFIG, LFM3, params
from safetensors.numpy import load_file, save_file

import jaxpo.convert.hf as hf
from jaxpo.convert.config_json import config_from_json, config_to_json
from jaxpo.convert.hf import export_hf, import_hf
from jaxpo.convert.shards import parse_size
from jaxpo.convert.verify import verify
from jaxpo.data.tokenizer.tokenizer import Tokenizer, train_tokenizer
from jaxpo.errors import CheckpointError, ConfigError
from jaxpo.models.document import Document
from jaxpo.models.lfm2.config_json import feed_forward_width
from jaxpo.models.lfm2.presets import PRESETS
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import param_shardings
from jaxpo.sharding import make_mesh

QUIET = {"compare_transformers": False}


@pytest.fixture(scope="module")
def lfm3(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hf3") / "model"
    return folder, export_hf(params(LFM3), LFM3, folder, **QUIET)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hf") / "model"
    report = export_hf(params(), CONFIG, folder, **QUIET)
    return folder, report


@pytest.fixture
def copy(exported, tmp_path):
    """The files of an export in a folder that a test may spoil, and its tensors."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in exported[0].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder, load_file(folder / "model.safetensors")


def _assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_round_trip_is_bit_exact_and_verified(exported):
    folder, report = exported
    again, config = import_hf(folder)
    assert config == CONFIG
    _assert_equal(again, params())
    assert {x.dtype for x in jax.tree.leaves(again)} == {jnp.dtype("float32")}
    assert report["max_logprob_error"] < 1e-4
    assert abs(report["kl"]) < 1e-8
    assert json.loads((folder / "verification.json").read_text()) == report
    assert {f.name for f in folder.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "verification.json",
        "README.md",
    }
    assert not list(folder.parent.glob(".*"))


def test_lfm3_round_trip_is_bit_exact_and_verified(lfm3):
    folder, report = lfm3
    again, config = import_hf(folder)
    assert config == LFM3
    _assert_equal(again, params(LFM3))
    assert report["max_logprob_error"] < 1e-4
    document = json.loads((folder / "config.json").read_text())
    assert (document["model_type"], document["architectures"]) == ("lfm3", ["Lfm3ForCausalLM"])
    assert document["rope_parameters"]["full_attention"]["partial_rotary_factor"] == 0.5
    assert "lm_head.weight" in load_file(folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "tensors"),
    [
        ({"sliding_window": 5}, {}),
        ({"use_attention_gate": False}, {}),
        ({"use_sandwich_norm": False}, {}),
        ({"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e6},
                              "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}}, {}),
        ({}, {"model.layers.2.self_attn.gate_proj.weight": 1}),
        ({}, {"model.layers.2.self_attn.gate_proj.weight": 2, "model.layers.2.post_ffn_norm.weight": 3}),
    ],
)  # fmt: skip
def test_verification_sees_every_part_of_lfm3(lfm3, tmp_path, change, tensors):
    """The float64 reference is sensitive to window, gate, sandwich norms and partial rotation."""
    copy = tmp_path / "copy"
    shutil.copytree(lfm3[0], copy)
    document, stored = json.loads((copy / "config.json").read_text()), load_file(copy / "model.safetensors")
    (copy / "config.json").write_text(json.dumps(document | change))
    rolled = {name: np.ascontiguousarray(np.roll(stored[name], by, axis=0)) for name, by in tensors.items()}
    save_file(stored | rolled, copy / "model.safetensors")
    with pytest.raises(CheckpointError, match="do not compute what the model computes: log-probs differ by"):
        verify(params(LFM3), LFM3, copy, transformers=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv_bias": True, "attention_bias": True}, "conv_bias is True, but .*; attention_bias is True, but"),
        ({"sliding_window": 0}, "sliding_window is 0; it must be between 1 and"),
        ({"layer_types": ["conv"]}, "layer_types has 1 entries for 3 layers"),
        ({"layer_types": ["conv", "sliding", "conv"]}, r"layer_types\[1\] is 'sliding'.*mean 'sliding_attention'"),
        ({"rope_parameters": {"full_attention": {"rope_type": "yarn", "rope_theta": 1e6}}},
         "rope_parameters.full_attention.rope_type is 'yarn', supported: default, proportional"),
        ({"rope_parameters": {"full_attention": {"rope_type": "proportional", "rope_theta": 1e6, "factor": 8.0}}},
         "rope_parameters.full_attention.factor is 8.0"),
        ({"rope_parameters": {"sliding_attention": {"rope_type": "proportional", "rope_theta": 1e4}}},
         "rope_parameters.sliding_attention.rope_type is 'proportional', supported: default"),
        ({"rope_parameters": {"full_attention": {"rope_type": "proportional", "rope_theta": 1e6,
                                                 "partial_rotary_factor": 1.25}}},
         "model.partial_rotary_factor is 1.25"),
        ({"rope_parameters": {"sliding_attention": {"rope_type": "default"}}},
         "rope_parameters.sliding_attention.rope_theta is missing"),
    ],
)  # fmt: skip
def test_foreign_lfm3_configurations(lfm3, tmp_path, change, message):
    document = json.loads((lfm3[0] / "config.json").read_text())
    with pytest.raises(CheckpointError, match=rf"file: .*{message}"):
        config_from_json(document | change, "file")


def test_lfm3_defaults_are_those_of_the_released_model():
    assert config_from_json({"model_type": "lfm3"}) == PRESETS["lfm3_1_7b"]


def test_an_untied_head_that_equals_the_embedding_is_still_a_head(tmp_path):
    same = {**params(LFM3), "lm_head": params(LFM3)["embed_tokens"]}
    export_hf(same, LFM3, tmp_path / "m", verify=False)
    _assert_equal(import_hf(tmp_path / "m")[0], same)


def test_shards_and_index(exported, tmp_path):
    export_hf(params(), CONFIG, tmp_path / "s", max_shard_size="6KB", verify=False)
    index = json.loads((tmp_path / "s" / "model.safetensors.index.json").read_text())
    files = sorted((tmp_path / "s").glob("*.safetensors"))
    assert len(files) > 2
    assert all(f.name.endswith(f"-of-{len(files):05d}.safetensors") for f in files)
    assert all(f.stat().st_size < 8000 for f in files)
    whole = load_file(exported[0] / "model.safetensors")
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in whole.values())
    joined = {}
    for f in files:
        part = load_file(f)
        assert all(index["weight_map"][name] == f.name for name in part)
        joined |= part
    assert joined.keys() == whole.keys() == index["weight_map"].keys()
    _assert_equal(import_hf(tmp_path / "s")[0], params())


def test_bfloat16_rounds_once_and_reports_what_it_costs(tmp_path):
    report = export_hf(params(), CONFIG, tmp_path / "h", dtype="bfloat16", **QUIET)
    again, _ = import_hf(tmp_path / "h", dtype=jnp.bfloat16)
    _assert_equal(again, jax.tree.map(lambda x: x.astype(jnp.bfloat16), params()))
    assert json.loads((tmp_path / "h" / "config.json").read_text())["dtype"] == "bfloat16"
    assert report["max_logprob_error"] < 1e-4 < report["rounding"]["max_logprob_error"]


def test_sharded_parameters_go_out_and_come_back_to_their_places(tmp_path):
    mesh = make_mesh({"fsdp": 4, "tensor": 2})
    config = dataclasses.replace(CONFIG, vocab_size=32)
    table = param_table(config)
    places = param_shardings(table, mesh)
    embedding = jnp.concatenate([params()["embed_tokens"]["weight"], jnp.ones((1, 16))])
    placed = jax.device_put(params() | {"embed_tokens": {"weight": embedding}}, places)
    export_hf(placed, config, tmp_path / "m", **QUIET)
    again, _ = import_hf(tmp_path / "m", shardings=places)
    _assert_equal(again, placed)
    jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim) or pytest.fail(str(s)), again, places)


def test_tokenizer_and_template_lie_beside_the_weights(tmp_path):
    tokenizer = train_tokenizer(["some text to learn from, twice: some text"], 300)
    export_hf(params(), CONFIG, tmp_path / "t", tokenizer=tokenizer, verify=False)
    assert Tokenizer.load(tmp_path / "t").hash == tokenizer.hash
    assert "<|im_start|>" in (tmp_path / "t" / "chat_template.jinja").read_text()
    ids = json.loads((tmp_path / "t" / "generation_config.json").read_text())
    assert (ids["bos_token_id"], ids["eos_token_id"], ids["pad_token_id"]) == (1, 7, 0)


def test_missing_extra_misshaped_and_odd_tensors_are_all_named(copy):
    folder, tensors = copy
    tensors.pop("model.layers.0.conv.conv.weight")
    tensors["model.layers.9.rogue"] = np.ones(2, np.float32)
    tensors["model.embedding_norm.weight"] = np.ones(3, np.float32)
    tensors["model.layers.1.ffn_norm.weight"] = np.ones(16, np.int8)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        import_hf(folder)
    message = str(caught.value)
    assert str(folder) in message
    assert "missing: model.layers.0.conv.conv.weight" in message
    assert "not part of the model: model.layers.9.rogue" in message
    assert "wrong shape: model.embedding_norm.weight (3,), expected (16,)" in message
    assert "not a floating-point type (F64, F32, F16, BF16): model.layers.1.ffn_norm.weight I8" in message


def test_a_second_copy_of_the_tied_matrix_is_accepted_only_if_it_is_one(copy):
    folder, tensors = copy
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    save_file(tensors, folder / "model.safetensors")
    _assert_equal(import_hf(folder)[0], params())
    tensors["lm_head.weight"][0, 0] += 1
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"not part of the model: lm_head.weight"):
        import_hf(folder)


@pytest.mark.parametrize("keep", [0, 5, 300, -1])
def test_truncated_file(copy, keep):
    folder, _ = copy
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:keep])
    with pytest.raises(CheckpointError, match=r"model.safetensors: not a complete safetensors file .*copy or download"):
        import_hf(folder)


def test_a_shard_that_is_missing_is_named(tmp_path):
    export_hf(params(), CONFIG, tmp_path / "s", max_shard_size="6KB", verify=False)
    gone = sorted((tmp_path / "s").glob("*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(CheckpointError, match=f"names files that are missing: {gone.name}"):
        import_hf(tmp_path / "s")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ([1], "expected a JSON object"),
        ({"weight_map": None}, "has no weight_map"),
        ({"weight_map": {}}, "has no weight_map"),
        ({"weight_map": {"a": 1, "b": "model-1.safetensors"}}, "weight_map gives a no name of a file in the folder"),
        ({"weight_map": {"a": ["model-1.safetensors"]}}, "weight_map gives a no name of a file in the folder"),
        ({"weight_map": {"a": "../model/model.safetensors"}}, "weight_map gives a no name of a file in the folder"),
        ({"weight_map": {"a": ""}}, "weight_map gives a no name of a file in the folder"),
        ({"weight_map": {"a": "."}}, "weight_map gives a no name of a file in the folder"),
        ({"weight_map": {"a": "x\u0000y"}}, "names files that are missing"),
        ({"weight_map": {"a": "x" * 5000}}, "names files that are missing"),
        ({"weight_map": {"a": "config.json"}}, "not a complete safetensors file"),
    ],
)
def test_a_damaged_index_is_named(copy, index, message):
    folder, _ = copy
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=message):
        import_hf(folder)


def test_tensors_that_are_there_twice_are_not_chosen_between(copy):
    folder, tensors = copy
    names = dict.fromkeys(tensors, "model-2.safetensors") | {"x": "model-1.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(CheckpointError, match=r"holds both model.safetensors and model.safetensors.index.json"):
        import_hf(folder)
    for name in ("model-1.safetensors", "model-2.safetensors"):
        save_file(tensors, folder / name)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-2.safetensors: holds \S+, and so does another file"):
        import_hf(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl"])
def test_pickles_are_refused_unopened(copy, name):
    folder, _ = copy
    (folder / "model.safetensors").unlink()

    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was opened",))

    (folder / name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match=rf"{name}: \.\w+ files are pickles.*never read.*safe_serialization=True"):
        import_hf(folder)
    with pytest.raises(CheckpointError, match="never read"):
        import_hf(folder / name)


def test_nothing_there(tmp_path):
    with pytest.raises(CheckpointError, match=r"no such folder; give a folder with config.json and model.safetensors"):
        import_hf(tmp_path / "absent")
    with pytest.raises(CheckpointError, match=r"holds neither model.safetensors nor model.safetensors.index.json"):
        import_hf(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llama"}, "model_type is 'llama'; this importer reads Lfm2"),
        ({"model_type": "lfm2_audio"}, "model_type is 'lfm2_audio'"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings is False, but LFM2 ties"),
        ({"conv_bias": True}, "conv_bias is True, but LFM2 has no biases"),
        (
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6}},
            "rope_type is 'yarn', but only the default",
        ),
        ({"layer_types": ["conv"]}, "layer_types has 1 entries for 3 layers"),
        ({"layer_types": ["conv", "sliding", "conv"]}, r"model.layer_types\[1\] is 'sliding'"),
        ({"num_key_value_heads": 3}, "is not divisible by model.num_key_value_heads"),
    ],
)
def test_foreign_configurations(copy, change, message):
    folder, _ = copy
    document = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(document | change))
    with pytest.raises(CheckpointError, match=rf"config.json: .*{message}"):
        import_hf(folder)


def test_broken_or_absent_config(copy):
    folder, _ = copy
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config.json: not valid JSON"):
        import_hf(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config.json: no such file"):
        import_hf(folder)


@pytest.mark.parametrize("name", list(PRESETS))
def test_configuration_survives_the_round_trip(name):
    config = PRESETS[name]
    assert config_from_json(config_to_json(config, "float32")) == config


@pytest.mark.parametrize(
    ("document", "width"),
    [
        ({"intermediate_size": 6656, "block_auto_adjust_ff_dim": True, "block_multiple_of": 256}, 4608),
        ({"intermediate_size": 10240}, 6912),
        ({"block_ff_dim": 12288, "block_ffn_dim_multiplier": 1.0}, 8192),
        ({"intermediate_size": 10752, "block_auto_adjust_ff_dim": False}, 10752),
        ({"intermediate_size": 100, "block_ffn_dim_multiplier": None}, 66),  # then nothing is rounded either
        ({"intermediate_size": 100, "block_ffn_dim_multiplier": 1.3, "block_multiple_of": 24}, 96),
        ({"intermediate_size": 1, "block_ff_dim": 12288}, 8192),
    ],
)
def test_feed_forward_width(document, width):
    assert feed_forward_width(Document(document)) == width


def test_released_and_legacy_keys():
    """As released for 350M, with the older keys, and with the inert seventeenth layer type of one export."""
    released = {
        "model_type": "lfm2",
        "vocab_size": 65536,
        "hidden_size": 1024,
        "block_ff_dim": 6656,
        "block_auto_adjust_ff_dim": True,
        "block_multiple_of": 256,
        "num_hidden_layers": 16,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "full_attn_idxs": [2, 5, 8, 10, 12, 14],
        "theta": 1e6,
        "tie_embedding": True,
        "conv_bias": False,
        "norm_eps": 1e-5,
        "eos_token_id": 7,
        "block_use_xavier_init": True,
    }
    assert config_from_json(released) == PRESETS["lfm2_350m"]
    extra = {**released, "layer_types": [*PRESETS["lfm2_350m"].layer_types, "full_attention"]}
    assert config_from_json(extra) == PRESETS["lfm2_350m"]
    assert config_from_json({**released, "eos_token_id": [7, 2]}).eos_token_id == 7
    everywhere = config_from_json({k: v for k, v in released.items() if k != "full_attn_idxs"})
    assert set(everywhere.layer_types) == {"full_attention"}


def test_an_existing_folder_is_kept_unless_told_otherwise(copy):
    folder, _ = copy
    doubled = jax.tree.map(lambda x: 2 * x, params())
    with pytest.raises(CheckpointError, match="exists already"):
        export_hf(doubled, CONFIG, folder, **QUIET)
    _assert_equal(import_hf(folder)[0], params())
    export_hf(doubled, CONFIG, folder, overwrite=True, verify=False)
    _assert_equal(import_hf(folder)[0], doubled)
    assert not list(folder.parent.glob(".*"))


def test_an_interrupted_export_never_looks_finished(copy, monkeypatch, tmp_path):
    folder, _ = copy

    class Interrupted:
        def save(self, directory):
            raise KeyboardInterrupt

    for target in (tmp_path / "new", folder):
        with pytest.raises(KeyboardInterrupt):
            export_hf(params(), CONFIG, target, tokenizer=Interrupted(), overwrite=True, **QUIET)
    assert not (tmp_path / "new").exists()
    _assert_equal(import_hf(folder)[0], params())


@pytest.mark.parametrize("spoilt", ["model.layers.0.conv.in_proj.weight", "model.layers.1.self_attn.q_proj.weight"])
def test_verification_finds_a_conversion_with_right_shapes_and_wrong_numbers(copy, spoilt):
    """Gates in another order, heads in another order: every shape is as it should be."""
    folder, tensors = copy
    tensors[spoilt] = np.ascontiguousarray(np.roll(tensors[spoilt], 16, axis=0))
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="do not compute what the model computes: log-probs differ by"):
        verify(params(), CONFIG, folder, transformers=False)
    assert json.loads((folder / "verification.json").read_text())["max_logprob_error"] > 1e-2


def test_a_layout_that_is_wrong_both_ways_fails_the_export(tmp_path, monkeypatch):
    """The round trip would be exact; the independent reference is not fooled."""
    table = param_table(CONFIG)
    q = table["layers"]["1"]["self_attn"]["q_proj"]
    from jaxpo.models.spec import Layout

    roll = Layout(lambda x: np.roll(x.T, 8, 0), lambda x, shape: np.roll(x, -8, 0).T)
    q["weight"] = dataclasses.replace(q["weight"], layout=roll)
    monkeypatch.setattr(hf, "param_table", lambda config: table)
    with pytest.raises(CheckpointError, match="do not compute what the model computes"):
        export_hf(params(), CONFIG, tmp_path / "x", **QUIET)
    assert not (tmp_path / "x").exists()


def test_parameters_of_another_shape_are_refused_by_name(tmp_path):
    wider = dataclasses.replace(CONFIG, intermediate_size=32)
    with pytest.raises(CheckpointError, match=r"layers/0/feed_forward/w1/weight: has shape \(16, 24\)"):
        export_hf(params(), wider, tmp_path / "x", **QUIET)


@pytest.mark.parametrize(
    ("text", "size"), [("5GB", 5 * 10**9), ("1.5 MB", 1_500_000), ("300KB", 300_000), (77, 77), ("77", 77)]
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["five", "5TBs", 0, "-3MB"])
def test_sizes_that_are_none(text):
    with pytest.raises(ConfigError, match="max_shard_size is"):
        parse_size(text)


def test_unknown_dtype(tmp_path):
    with pytest.raises(ConfigError, match="export dtype is 'float8'; choose one of float32, bfloat16"):
        export_hf(params(), CONFIG, tmp_path / "x", dtype="float8", verify=False)
