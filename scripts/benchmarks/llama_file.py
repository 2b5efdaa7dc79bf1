"""A model's GGUF file for llama.cpp, made of jaxpo's own export; for measuring alone: its vocabulary is a stand-in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ARCHITECTURE = "lfm2"
NAMES = {
    "model.embed_tokens": "token_embd",
    # It is the final norm, whatever its name says.
    "model.embedding_norm": "token_embd_norm",
    "operator_norm": "attn_norm",
    "ffn_norm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_output",
    "self_attn.q_layernorm": "attn_q_norm",
    "self_attn.k_layernorm": "attn_k_norm",
    "conv.in_proj": "shortconv.in_proj",
    "conv.conv": "shortconv.conv",
    "conv.out_proj": "shortconv.out_proj",
    "feed_forward.w1": "ffn_gate",
    "feed_forward.w2": "ffn_down",
    "feed_forward.w3": "ffn_up",
}


def gguf_name(name: str) -> str:
    """llama.cpp's name of a tensor of a Hugging Face file."""
    stem = name.removesuffix(".weight")
    if stem.startswith("model.layers."):
        _, _, layer, part = stem.split(".", 3)
        return f"blk.{layer}.{NAMES[part]}.weight"
    return f"{NAMES[stem]}.weight"


def write_gguf(folder: Path, path: Path, kind: str) -> None:
    """Write the model of a folder from `export_hf`.

    Args:
      kind: "F16" or "Q8_0", of the matrices; vectors and convolution taps are float32, as llama.cpp wants them.
    """
    import gguf

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    writer = gguf.GGUFWriter(path, ARCHITECTURE)
    _describe(writer, config)
    wanted = gguf.GGMLQuantizationType[kind]
    for name, value in _tensors(folder):
        taps = name.endswith("conv.conv.weight")
        value = value.squeeze(1) if taps else value
        float32 = taps or value.ndim == 1
        of = gguf.GGMLQuantizationType.F32 if float32 else wanted
        writer.add_tensor(gguf_name(name), gguf.quants.quantize(value, of), raw_dtype=of)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _describe(writer: Any, config: dict[str, Any]) -> None:
    attends = [kind == "full_attention" for kind in config["layer_types"]]
    writer.add_block_count(len(attends))
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv([config["num_key_value_heads"] * yes for yes in attends])
    writer.add_layer_norm_rms_eps(config["norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_shortconv_l_cache(config["conv_L_cache"])
    # Prompts are ids: the pieces of text behind them are never looked at, as long as bytes are among them.
    pieces = [*(chr(0x100 + i) if i < 33 else chr(i) for i in range(128)), "ab"]
    pieces += [f"<{i}>" for i in range(len(pieces), config["vocab_size"])]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("lfm2")
    writer.add_token_list(pieces[: config["vocab_size"]])
    writer.add_token_types([1] * config["vocab_size"])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_bos_token_id(config["bos_token_id"])


def _tensors(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="np") as found:
            for name in found.keys():  # noqa: SIM118 a file, not a mapping
                yield name, found.get_tensor(name)
