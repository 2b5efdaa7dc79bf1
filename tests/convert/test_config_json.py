"""config.json as it was released and as other tools write it; what is refused before anything is built; damage."""

import copy
import dataclasses
import json
import random

import pytest
from models.tiny import CONFIG, LFM3
from models.tiny_moe import CONFIG as MOE

from jaxpo.convert.config_json import config_from_json, config_to_json, read_json
from jaxpo.convert.hf import check_tensors
from jaxpo.errors import CheckpointError, JaxpoError
from jaxpo.models.family import param_table
from jaxpo.models.lfm2.presets import PRESETS

KINDS = list(PRESETS["lfm2_350m"].layer_types)
# What all of them share: the 350M model.
COMMON = {
    "architectures": ["Lfm2ForCausalLM"], "model_type": "lfm2", "vocab_size": 65536, "hidden_size": 1024,
    "num_hidden_layers": 16, "num_attention_heads": 16, "num_key_value_heads": 8, "conv_L_cache": 3, "conv_bias": False,
    "max_position_embeddings": 128000, "initializer_range": 0.02, "bos_token_id": 1, "pad_token_id": 0,
    "block_auto_adjust_ff_dim": True, "block_ffn_dim_multiplier": 1.0, "block_multiple_of": 256,
}  # fmt: skip
RELEASED = {
    "block_dim": 1024, "block_norm_eps": 1e-5, "block_mlp_init_scale": 1.0, "block_out_init_scale": 1.0,
    "block_use_swiglu": True, "block_use_xavier_init": True, "conv_dim": 1024, "conv_use_xavier_init": True,
    "norm_eps": 1e-5, "num_heads": 16, "use_pos_enc": True, "use_cache": True,
}  # fmt: skip
ROPE = {"rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"}}
WRITTEN = {
    "released in July 2025": {
        **RELEASED, "block_ff_dim": 6656, "full_attn_idxs": [2, 5, 8, 10, 12, 14], "theta": 1000000.0,
        "rope_theta": 1000000.0, "tie_embedding": True, "eos_token_id": 7, "torch_dtype": "bfloat16",
        "conv_dim_out": 1024, "transformers_version": "4.54.0",
    },
    "LFM2.5": {
        **RELEASED, **ROPE, "block_ff_dim": 6656, "intermediate_size": 6656, "layer_types": KINDS, "eos_token_id": 7,
        "tie_embedding": True, "tie_word_embeddings": True, "dtype": "bfloat16", "full_attn_idxs": None,
    },
    "LFM2.5 without the older name of the width": {
        **RELEASED, **ROPE, "intermediate_size": 6656, "layer_types": KINDS, "full_attn_idxs": None, "eos_token_id": 7,
        "dtype": "bfloat16",
    },
    "a first spelling of the class, and a width beside the older name": {
        "architectures": ["LFM2ForCausalLM"], "block_ff_dim": 6656, "intermediate_size": 4608, "eos_token_id": 7,
        "full_attn_idxs": [2, 5, 8, 10, 12, 14],
    },
    "transformers 4, which leaves out defaults and knows rope_scaling": {
        "intermediate_size": 6656, "layer_types": KINDS, "rope_theta": 1e6, "rope_scaling": None, "eos_token_id": 7,
        "torch_dtype": "float16", "norm_eps": 1e-5, "theta": 1e6,
    },
    "transformers between 4 and 5, one rotary embedding per type of layer": {
        "intermediate_size": 6656, "layer_types": KINDS, "eos_token_id": 7, "dtype": "float32",
        "rope_parameters": {"full_attention": {"rope_theta": 1e6, "rope_type": "default"}, "conv": None},
    },
    "transformers 5, several ends": {
        **ROPE, "intermediate_size": 6656, "layer_types": KINDS, "eos_token_id": [7, 2], "tie_word_embeddings": True,
        "norm_eps": 1e-5, "transformers_version": "5.23.0",
    },
    "rope_parameters without a base, which stands outside": {
        "rope_parameters": {"rope_type": "default"}, "rope_theta": 1e6, "intermediate_size": 6656, "eos_token_id": 7,
        "layer_types": KINDS,
    },
    "Unsloth": {
        **RELEASED, **ROPE, "intermediate_size": 6656, "layer_types": KINDS, "eos_token_id": 7, "full_attn_idxs": None,
        "torch_dtype": "float16", "model_name": "LiquidAI/LFM2-350M", "unsloth_fixed": True,
        "unsloth_version": "2026.9",
    },
    "leap-finetune, the base class without a head": {
        "architectures": ["Lfm2Model"], "intermediate_size": 6656, "layer_types": KINDS, "eos_token_id": 7,
        "block_norm_eps": 1e-5, "rope_theta": 1e6, "dtype": "bfloat16",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
def test_everything_that_was_written_of_one_model_means_it(name):
    assert config_from_json({**COMMON, **WRITTEN[name]}) == PRESETS["lfm2_350m"]


def test_other_values_are_not_the_defaults():
    """The table above would pass with a reader that ignores what it does not know."""
    base = {**COMMON, **WRITTEN["transformers 4, which leaves out defaults and knows rope_scaling"]}
    changed = {k: v for k, v in base.items() if k not in ("norm_eps", "rope_theta", "theta")}
    for change, field, value in (
        ({"block_norm_eps": 1e-6}, "norm_eps", 1e-6),
        ({"theta": 5e6}, "rope_theta", 5e6),
        ({"rope_theta": 1e4}, "rope_theta", 1e4),
        ({"rope_parameters": {"rope_theta": 5000000, "rope_type": "default"}, "rope_theta": 1e4}, "rope_theta", 5e6),
        ({"rope_parameters": {"full_attention": {"rope_theta": 5e6}}}, "rope_theta", 5e6),
        ({"eos_token_id": [3, 7]}, "eos_token_id", 3),
        ({"eos_token_id": None}, "eos_token_id", 2),  # transformers' own
        ({"eos_token_id": []}, "eos_token_id", 2),
        ({"head_dim": 32}, "head_dim", 32),
        ({"full_attn_idxs": [0], "layer_types": None}, "layer_types", ("full_attention", *["conv"] * 15)),
    ):
        expected = dataclasses.replace(PRESETS["lfm2_350m"], **{field: value})
        assert config_from_json({**changed, **change}) == expected, change


def test_a_mixture_as_released():
    document = {
        "architectures": ["Lfm2MoeForCausalLM"], "model_type": "lfm2_moe", "hidden_size": 2048, "num_hidden_layers": 24,
        "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 7168, "moe_intermediate_size": 1792,
        "num_experts": 32, "num_experts_per_tok": 4, "num_dense_layers": 2, "norm_topk_prob": True, "vocab_size": 65536,
        "use_expert_bias": True, "routed_scaling_factor": 1, "conv_L_cache": 3, "norm_eps": 1e-5, "eos_token_id": 7,
        "rope_theta": 1e6, "tie_embedding": True, "torch_dtype": "bfloat16", "output_router_logits": False,
        "layer_types": list(PRESETS["lfm2_8b_a1b"].layer_types), "theta": 1000000,
    }  # fmt: skip
    assert config_from_json(document) == PRESETS["lfm2_8b_a1b"]


def test_lfm3_reads_the_other_name_of_the_norm():
    document = config_to_json(LFM3, "float32")
    del document["norm_eps"]
    assert config_from_json({**document, "rms_norm_eps": 1e-6}).norm_eps == 1e-6
    assert config_from_json({**document, "rope_scaling": None, "rope_parameters": None}).sliding_rope_theta == 1e4


def test_a_dense_export_holds_what_mlx_and_vllm_size_their_layers_by():
    """The whole file, so that a reader and a writer that are wrong alike are seen."""
    shape = {
        "vocab_size": 31, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "layer_types": ["conv", "full_attention", "conv"],
        "full_attn_idxs": [1], "conv_L_cache": 3, "conv_bias": False, "max_position_embeddings": 128_000,
    }  # fmt: skip
    block = {
        "block_dim": 16, "block_ff_dim": 24, "block_auto_adjust_ff_dim": False, "block_ffn_dim_multiplier": 1.0,
        "block_multiple_of": 256, "block_norm_eps": 1e-5, "block_use_swiglu": True, "block_use_xavier_init": True,
        "block_mlp_init_scale": 1.0, "block_out_init_scale": 1.0, "conv_dim": 16, "conv_use_xavier_init": True,
        "num_heads": 4, "use_pos_enc": True,
    }  # fmt: skip
    other = {
        "architectures": ["Lfm2ForCausalLM"], "model_type": "lfm2", "norm_eps": 1e-5, "initializer_range": 0.02,
        "rope_theta": 1e6, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "use_cache": True,
        "tie_word_embeddings": True, "tie_embedding": True, "bos_token_id": 1, "eos_token_id": 7, "pad_token_id": 0,
        "dtype": "bfloat16",
    }  # fmt: skip
    assert config_to_json(CONFIG, "bfloat16") == shape | block | other
    assert not {"block_dim", "conv_dim"} & config_to_json(MOE, "float32").keys()  # as released


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000; it must be between 1 and 1,024"),
        ({"num_hidden_layers": 10**40}, "num_hidden_layers is a number of 41 digits"),
        ({"layer_types": ["conv"] * 10**6}, "layer_types has 1,000,000 entries; it may have 1,024"),
        ({"full_attn_idxs": [0] * 10**6, "layer_types": None}, "full_attn_idxs has 1,000,000 entries"),
        ({"full_attn_idxs": [16], "layer_types": None}, "full_attn_idxs is 16; it must be layers below 16"),
        ({"vocab_size": 2**31}, "vocab_size is 2147483648; it must be between 1 and 16,777,216"),
        ({"hidden_size": "1024"}, "hidden_size is '1024'; it must be a whole number"),
        ({"hidden_size": 1024.0}, "hidden_size is 1024.0; it must be a whole number"),
        ({"hidden_size": True}, "hidden_size is True; it must be a whole number"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0; it must be between 1 and"),
        ({"norm_eps": "1e-5"}, "norm_eps is '1e-5'; it must be a number"),
        ({"norm_eps": float("nan")}, "norm_eps is nan; it must be between"),
        ({"rope_theta": float("inf")}, "rope_theta is inf; it must be between"),
        ({"norm_eps": 1e-5, "block_norm_eps": 1e-6}, "norm_eps is 1e-05 and block_norm_eps is 1e-06, which mean"),
        ({"rope_theta": 1e6, "theta": 1e4}, "rope_theta is 1000000.0 and theta is 10000.0, which mean the same"),
        ({"rope_parameters": [1, 2]}, "rope_parameters is a list of 2; it must be an object"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling.type is 'linear', but only the default"),
        ({"layer_types": "conv"}, "layer_types is 'conv'; it must be a list"),
        ({"layer_types": [7] * 16}, "layer_types is 7; it must be a list of strings"),
        ({"eos_token_id": ["7"]}, "eos_token_id is '7'; it must be a list of whole numbers"),
        ({"eos_token_id": {"a": 1}}, "eos_token_id is an object of 1; it must be a whole number"),
        ({"block_ffn_dim_multiplier": 1e20}, "block_ffn_dim_multiplier is 1e[+]20; it must be such that the width"),
        ({"use_pos_enc": False}, "use_pos_enc is False, but LFM2's attention rotates"),
        ({"tie_embedding": 1}, "tie_embedding is 1, but LFM2 ties"),
        ({"quantization_config": {"bits": 4}}, "has quantization_config: the weights are quantised"),
        ({"quantization": {"bits": 4, "group_size": 64}}, "has quantization: the weights are quantised"),
        ({"architectures": ["Lfm2BidirForMaskedLM"]}, "architectures is 'Lfm2BidirForMaskedLM': another model on"),
        ({"architectures": [["x"] * 10**6]}, "architectures is .*: another model on the same layers"),
        ({"model_type": ["lfm2"]}, "model_type is a list of 1; this importer reads"),
        ({"hidden_size": None, "vocab_size": -1, "conv_bias": True}, "conv_bias is True.*vocab_size is -1"),
    ],
)  # fmt: skip
def test_what_is_refused(change, message):
    document = {**COMMON, "intermediate_size": 6656, "layer_types": KINDS, **change}
    with pytest.raises(CheckpointError, match=f"^some/config.json: .*{message}") as caught:
        config_from_json(document, "some/config.json")
    assert len(str(caught.value)) < 2000


def test_a_value_that_is_no_number_does_not_contradict_itself():
    document = {**COMMON, "intermediate_size": 6656, "layer_types": KINDS, "rope_theta": float("nan")}
    with pytest.raises(CheckpointError, match=r"^some/config\.json: rope_theta is nan; it must be between"):
        config_from_json(document, "some/config.json")


def test_more_experts_than_any_file_holds():
    with pytest.raises(CheckpointError, match="1,024 layers of 4,096 experts are more than 65,536 experts in all"):
        config_from_json({"model_type": "lfm2_moe", "num_hidden_layers": 1024, "num_experts": 4096})


@pytest.mark.parametrize("text", [b"[1]", b"5", b"null", b"{", b"[" * 10**5, b'{"a": "\xff"}', b"9" * 5000])
def test_files_that_are_no_object(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(CheckpointError, match=r"config.json: (not valid JSON|expected a JSON object)"):
        read_json(tmp_path / "config.json")


def test_a_byte_order_mark_is_no_damage(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"a": 1}), encoding="utf-8-sig")
    assert read_json(tmp_path / "config.json") == {"a": 1}


ODD = (
    None, True, False, 0, 1, -1, 3, 1023, 1025, 2**17, 2**20, 2**24, 10**9, 2**63, 10**4000, 0.5, -1.5, 1e-40, 1e40,
    float("inf"), float("nan"), "", "7", "conv", "default", "x" * 10**5, [], [1], [[]], [None], ["conv"], [7, 2],
    ["conv"] * 5, [10**9], [-1], ["conv"] * 10**5, list(range(10**5)), {}, {"a": 1}, {"rope_type": "yarn"},
    {"rope_type": ["a"]}, {"rope_theta": "x"}, {"full_attention": 3}, {"full_attention": {"rope_theta": 10**6}},
)  # fmt: skip


def damaged(document, draw):
    """One to four keys of a document dropped or given an odd value, inner objects too."""
    document = copy.deepcopy(document)
    for _ in range(draw.choice((1, 1, 2, 4))):
        key = draw.choice(list(document))
        inner = document[key]
        if isinstance(inner, dict) and inner and draw.random() < 0.6:
            document[key] = {**inner, draw.choice(list(inner)): draw.choice(ODD)}
        elif draw.random() < 0.2:
            del document[key]
        else:
            document[key] = draw.choice(ODD)
    return document


@pytest.mark.timeout(60)
def test_damage_is_refused_or_makes_a_model_that_can_be_described(tmp_path):
    """Three hundred seeded mutations: no traceback, no hang, no message of many screens."""
    whole = [config_to_json(config, "float32") for config in (CONFIG, MOE, LFM3)]
    outcomes = set()
    for seed in range(300):
        draw = random.Random(seed)
        document = damaged(draw.choice(whole), draw)
        with pytest.raises(JaxpoError) as caught:
            check_tensors({}, param_table(config_from_json(document)), tmp_path)
        outcomes.add("do not fit" in str(caught.value))
        assert len(str(caught.value)) < 6000, seed
    assert outcomes == {True, False}
