"""What each program that loads an export reads of it: keys of config.json, and tensors under the names it gives them.

Lists are those of vLLM's `lfm2.py` and `lfm2_moe.py`, of mlx-lm's, ExecuTorch's and transformers' classes; the programs
themselves are not run here.
"""

import json
import re

import pytest
from models.tiny import CONFIG as DENSE
from models.tiny import params as dense_params
from models.tiny_moe import CONFIG as MOE
from models.tiny_moe import params as moe_params
from safetensors.numpy import load_file

from jaxpo.convert.formats import Options
from jaxpo.convert.hf import export_hf
from jaxpo.convert.hf_folder import write
from jaxpo.data.tokenizer.tokenizer import train_tokenizer

SHARED = {
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size", "norm_eps"),
    *("layer_types", "conv_L_cache", "conv_bias", "rope_parameters", "max_position_embeddings", "tie_word_embeddings"),
}
BLOCKS = {"block_dim", "block_ff_dim", "block_multiple_of", "block_ffn_dim_multiplier", "block_auto_adjust_ff_dim"}
EXPERTS = {
    *("num_experts", "num_experts_per_tok", "moe_intermediate_size", "num_dense_layers", "intermediate_size"),
    *("norm_topk_prob", "routed_scaling_factor", "use_expert_bias"),
}
KEYS = {
    ("vLLM", "dense"): SHARED | BLOCKS | {"conv_dim"},
    ("vLLM", "mixture"): SHARED | EXPERTS,
    ("mlx-lm", "dense"): SHARED | BLOCKS | {"rope_theta", "full_attn_idxs", "model_type"},
    ("mlx-lm", "mixture"): SHARED | EXPERTS | {"rope_theta", "full_attn_idxs", "model_type"},
    ("transformers", "dense"): SHARED
    | BLOCKS
    | {"architectures", "dtype", "bos_token_id", "eos_token_id", "pad_token_id"},
    ("transformers", "mixture"): SHARED | EXPERTS | {"architectures", "dtype", "eos_token_id", "pad_token_id"},
    ("onnxruntime-genai", "dense"): SHARED | {"architectures", "intermediate_size", "bos_token_id", "eos_token_id"},
    ("llama.cpp's converter", "dense"): SHARED | BLOCKS,
    ("ExecuTorch", "dense"): SHARED | {"intermediate_size"},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    tokenizer = train_tokenizer(["a b c"], 270)
    found = {}
    for name, config, params in (("dense", DENSE, dense_params()), ("mixture", MOE, moe_params())):
        out = found[name] = tmp_path_factory.mktemp("export") / name
        export_hf(params, config, out, tokenizer=tokenizer, compare_transformers=False)
    return found


@pytest.mark.parametrize(("program", "kind"), KEYS, ids="-".join)
def test_every_key_is_there(folders, program, kind):
    document = json.loads((folders[kind] / "config.json").read_text())
    assert KEYS[program, kind] <= document.keys()
    assert document["rope_parameters"]["rope_theta"] == DENSE.rope_theta
    if kind == "dense":
        # What readers that size a layer by these compute is the width that is used.
        width = document["block_ff_dim"]
        assert document["block_auto_adjust_ff_dim"] is False
        assert width == document["intermediate_size"] == DENSE.intermediate_size
        assert document["block_dim"] == document["conv_dim"] == document["hidden_size"]


def in_vllm(name: str) -> str:
    """A checkpoint's name after vLLM's renames."""
    name = name.replace(".conv.", ".short_conv.", 1).replace("expert_bias", "gate.e_score_correction_bias")
    name = re.sub(r"\.[qkv]_proj\.", ".qkv_proj.", name)
    name = re.sub(r"\.feed_forward\.w[13]\.", ".feed_forward.w13.", name)
    name = re.sub(r"\.experts\.\d+\.w[13]\.weight", ".experts.w13_weight", name)
    return re.sub(r"\.experts\.\d+\.w2\.weight", ".experts.w2_weight", name)


def vllm_parameters(config) -> set[str]:
    """Parameters of vLLM's modules."""
    found = {"model.embed_tokens.weight", "model.embedding_norm.weight"}
    for i, kind in enumerate(config.layer_types):
        attends = kind == "full_attention"
        mixer = ("qkv_proj", "out_proj", "q_layernorm", "k_layernorm") if attends else ("in_proj", "conv", "out_proj")
        parts = [f"{'self_attn' if attends else 'short_conv'}.{part}.weight" for part in mixer]
        parts += ["operator_norm.weight", "ffn_norm.weight"]
        if config.is_mixture(i):
            parts += ["gate.weight", "gate.e_score_correction_bias", "experts.w13_weight", "experts.w2_weight"]
            parts[-4:] = [f"feed_forward.{part}" for part in parts[-4:]]
        else:
            parts += ["feed_forward.w13.weight", "feed_forward.w2.weight"]
        found |= {f"model.layers.{i}.{part}" for part in parts}
    return found


@pytest.mark.parametrize(("kind", "config"), [("dense", DENSE), ("mixture", MOE)])
def test_vllm_finds_every_parameter_and_nothing_else(folders, kind, config):
    tensors = load_file(folders[kind] / "model.safetensors")
    assert {in_vllm(name) for name in tensors} == vllm_parameters(config)
    # Stacked from parts that are all there, each as wide as vLLM's loader expects it.
    for i, layer in enumerate(config.layer_types):
        if layer == "full_attention":
            of = {p: tensors[f"model.layers.{i}.self_attn.{p}_proj.weight"].shape[0] for p in "qkv"}
            groups = config.num_key_value_heads * config.head_dim
            assert of == {"q": config.num_attention_heads * config.head_dim, "k": groups, "v": groups}
        else:
            assert tensors[f"model.layers.{i}.conv.in_proj.weight"].shape[0] == 3 * config.hidden_size
            assert tensors[f"model.layers.{i}.conv.conv.weight"].shape == (config.hidden_size, 1, config.conv_kernel)
        if config.is_mixture(i):
            experts = {name for name in tensors if name.startswith(f"model.layers.{i}.feed_forward.experts.")}
            assert len(experts) == 3 * config.num_experts


def test_every_file_is_there_and_what_was_given_is_untouched(folders, tmp_path):
    names = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    names |= {"special_tokens_map.json", "chat_template.jinja", "README.md", "verification.json"}
    assert {f.name for f in folders["dense"].iterdir()} == names
    source = tmp_path / "source"
    source.mkdir()
    for file in folders["dense"].iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    own = {"generation_config.json": '{"eos_token_id": [7, 2], "temperature": 0.3, "do_sample": true}'}
    own["chat_template.jinja"] = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
    own["tokenizer_config.json"] = '{"bos_token": "<|startoftext|>", "eos_token": "<|im_end|>", "model_max_length": 9}'
    for name, text in own.items():
        (source / name).write_text(text)
    (rows,) = write(source, tmp_path / "again", Options(("float32",)))
    assert (rows.file, rows.by[-13:]) == ("model.safetensors", "float64 numpy")
    for name in ("chat_template.jinja", "tokenizer_config.json", "tokenizer.json"):
        assert (tmp_path / "again" / name).read_bytes() == (source / name).read_bytes()
    kept = json.loads((tmp_path / "again" / "generation_config.json").read_text())
    assert json.loads(own["generation_config.json"]).items() <= kept.items()
