"""LFM2 and LFM3 from their equations, in numpy float64, on tensors as a Hugging Face file holds them.

It shares no code with `jaxpo.models` and no layout with the parameter table, so that a conversion which is wrong in
both directions alike is still found. One sequence, no cache, no speed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Tensor = Callable[[str], np.ndarray]


def reference_logits(tensor: Tensor, document: Mapping[str, Any], tokens: np.ndarray) -> np.ndarray:
    """Logits `[S, V]` in float64 of one sequence.

    Args:
      tensor: name in the file -> values, `[out, in]`.
      document: `config.json` as written by `config_to_json`.
      tokens: `[S]`.
    """
    head = "model.embed_tokens.weight" if document["tie_word_embeddings"] else "lm_head.weight"
    return reference_hidden(tensor, document, tokens) @ _float64(tensor, head).T


def reference_reward(tensor: Tensor, document: Mapping[str, Any], tokens: np.ndarray) -> float:
    """What a reward model gives one sequence: its head at the last token."""
    return float(reference_hidden(tensor, document, tokens)[-1] @ _float64(tensor, "score.weight")[0])


def reference_hidden(tensor: Tensor, document: Mapping[str, Any], tokens: np.ndarray) -> np.ndarray:
    """Final hidden states `[S, D]`, after the last norm."""

    def get(name: str) -> np.ndarray:
        return _float64(tensor, name)

    eps, sandwich = document["norm_eps"], document.get("use_sandwich_norm", False)
    x = get("model.embed_tokens.weight")[tokens]
    for i in range(document["num_hidden_layers"]):
        prefix = f"model.layers.{i}."

        def layer(name: str, prefix: str = prefix) -> np.ndarray:
            return get(f"{prefix}{name}.weight")

        normed = _norm(x, layer("operator_norm"), eps)
        kind = document["layer_types"][i]
        mixed = _conv(normed, layer) if kind == "conv" else _attention(normed, layer, document, kind)
        x = x + (_norm(mixed, layer("post_operator_norm"), eps) if sandwich else mixed)
        normed = _norm(x, layer("ffn_norm"), eps)
        gate = normed @ layer("feed_forward.w1").T
        hidden = gate / (1 + np.exp(-gate)) * (normed @ layer("feed_forward.w3").T)
        fed = hidden @ layer("feed_forward.w2").T
        x = x + (_norm(fed, layer("post_ffn_norm"), eps) if sandwich else fed)
    return _norm(x, get("model.embedding_norm.weight"), eps)


def _float64(tensor: Tensor, name: str) -> np.ndarray:
    return np.asarray(tensor(name)).astype(np.float64)


def _norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    return weight * x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)


def _conv(x: np.ndarray, layer: Tensor) -> np.ndarray:
    b, c, value = np.split(x @ layer("conv.in_proj").T, 3, axis=-1)
    taps = layer("conv.conv")[:, 0, :]
    u = np.pad(b * value, ((taps.shape[1] - 1, 0), (0, 0)))
    z = sum(taps[:, j] * u[j : j + len(x)] for j in range(taps.shape[1]))
    return (c * z) @ layer("conv.out_proj").T


def _attention(x: np.ndarray, layer: Tensor, document: Mapping[str, Any], kind: str) -> np.ndarray:
    lfm3 = document["model_type"] == "lfm3"
    q_norm, k_norm, out = ("q_norm", "k_norm", "o_proj") if lfm3 else ("q_layernorm", "k_layernorm", "out_proj")
    heads, groups, eps = document["num_attention_heads"], document["num_key_value_heads"], document["norm_eps"]
    q, k, v = (
        (x @ layer(f"self_attn.{n}_proj").T).reshape(len(x), count, -1)
        for n, count in (("q", heads), ("k", groups), ("v", groups))
    )
    rope = document["rope_parameters"][kind] if lfm3 else document["rope_parameters"]
    share = rope["partial_rotary_factor"] if rope["rope_type"] == "proportional" else 1.0
    q = _rotate(_norm(q, layer(f"self_attn.{q_norm}"), eps), rope["rope_theta"], share)
    k = _rotate(_norm(k, layer(f"self_attn.{k_norm}"), eps), rope["rope_theta"], share)
    back = np.arange(len(x))[:, None] - np.arange(len(x))
    reach = document["sliding_window"] if kind == "sliding_attention" else len(x)
    hidden = np.where((back >= 0) & (back < reach), 0.0, -np.inf)
    outs = []
    for h in range(heads):
        g = h // (heads // groups)
        scores = q[:, h] @ k[:, g].T / np.sqrt(q.shape[-1]) + hidden
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        outs.append(weights / weights.sum(axis=-1, keepdims=True) @ v[:, g])
    if document.get("use_attention_gate", False):
        gates = 1 / (1 + np.exp(-(x @ layer("self_attn.gate_proj").T)))
        outs = [gates[:, h : h + 1] * o for h, o in enumerate(outs)]
    return np.concatenate(outs, axis=-1) @ layer(f"self_attn.{out}").T


def _rotate(x: np.ndarray, theta: float, share: float) -> np.ndarray:
    half = x.shape[-1] // 2
    turned = np.arange(half) < int(share * half)
    angle = np.arange(len(x))[:, None, None] * np.where(turned, theta ** (-np.arange(half) / half), 0.0)
    first, second = x[..., :half], x[..., half:]
    return np.concatenate(
        [first * np.cos(angle) - second * np.sin(angle), second * np.cos(angle) + first * np.sin(angle)], axis=-1
    )
