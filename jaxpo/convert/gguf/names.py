"""Names of tensors: those of a Hugging Face checkpoint, and llama.cpp's."""

from __future__ import annotations

import re

from jaxpo.errors import CheckpointError

DENSE = "1_Dense.linear.weight"
MODEL = {
    "model.embed_tokens.weight": "token_embd.weight",
    # It is the final norm, whatever its name says.
    "model.embedding_norm.weight": "token_embd_norm.weight",
    "lm_head.weight": "output.weight",
    # The dense layer of a retriever, which is no tensor of the model's own.
    DENSE: "dense_2.weight",
}
LAYER = {
    "operator_norm.weight": "attn_norm.weight",
    "ffn_norm.weight": "ffn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.out_proj.weight": "attn_output.weight",
    "self_attn.q_layernorm.weight": "attn_q_norm.weight",
    "self_attn.k_layernorm.weight": "attn_k_norm.weight",
    "conv.in_proj.weight": "shortconv.in_proj.weight",
    "conv.conv.weight": "shortconv.conv.weight",
    "conv.out_proj.weight": "shortconv.out_proj.weight",
    "feed_forward.w1.weight": "ffn_gate.weight",
    "feed_forward.w2.weight": "ffn_down.weight",
    "feed_forward.w3.weight": "ffn_up.weight",
    "feed_forward.gate.weight": "ffn_gate_inp.weight",
    "feed_forward.expert_bias": "exp_probs_b.bias",
}
STACKED = {"w1": "ffn_gate_exps.weight", "w2": "ffn_down_exps.weight", "w3": "ffn_up_exps.weight"}
"""Matrix of an expert -> the tensor in which those of all experts are stacked."""
TAPS, ROUTER = "shortconv.conv.weight", "ffn_gate_inp.weight"
_EXPERT = re.compile(r"feed_forward\.experts\.(\d+)\.(w[123])\.weight")
_TO_MODEL = {theirs: ours for ours, theirs in MODEL.items()}
_TO_LAYER = {theirs: ours for ours, theirs in LAYER.items()}
_TO_EXPERT = {theirs: ours for ours, theirs in STACKED.items()}


def gguf_name(name: str) -> str:
    """llama.cpp's name of a checkpoint's tensor; all experts of a layer share one.

    Raises:
      KeyError: llama.cpp has no such tensor.
    """
    if name in MODEL:
        return MODEL[name]
    start, _, rest = name.partition(".layers.")
    layer, _, part = rest.partition(".")
    if start != "model" or not layer.isdecimal():
        raise KeyError(name)
    expert = _EXPERT.fullmatch(part)
    return f"blk.{layer}.{STACKED[expert[2]] if expert else LAYER[part]}"


def hf_names(name: str, experts: int) -> list[str]:
    """The checkpoint's names of a file's tensor, one per expert of a stack.

    Raises:
      CheckpointError: no tensor of an LFM2; does not name the file.
    """
    if name in _TO_MODEL:
        return [_TO_MODEL[name]]
    found = re.fullmatch(r"blk\.(0|[1-9][0-9]{0,5})\.(.+)", name)
    layer = f"model.layers.{int(found[1])}." if found else ""
    part = found[2] if found else ""
    if part in _TO_LAYER:
        return [layer + _TO_LAYER[part]]
    if part in _TO_EXPERT:
        return [f"{layer}feed_forward.experts.{i}.{_TO_EXPERT[part]}.weight" for i in range(experts)]
    raise CheckpointError(f"holds a tensor {name[:80]!r}, which LFM2 has not")


def is_float32(name: str, rank: int) -> bool:
    """Whether llama.cpp wants a tensor in float32 whatever the file's type."""
    return rank == 1 or name.endswith((TAPS, ROUTER))
