"""LFM2 and LFM3 from their equations, in numpy float64, on tensors as a Hugging Face file holds them.

It shares no code with the forward pass and no layout with the parameter table, so that a conversion which is wrong in
both directions alike is still found. One sequence, no cache, no speed.
"""

from __future__ import annotations

import numpy as np

from jaxpo.models.export import Tensor
from jaxpo.models.lfm2.config import LFM2Config


def reference_logits(tensor: Tensor, config: LFM2Config, tokens: np.ndarray) -> np.ndarray:
    """Logits `[S, V]` in float64 of one sequence.

    Args:
      tensor: name in the file -> values, `[out, in]`.
      config: what `config.json` means, as `config_from_json` reads it.
      tokens: `[S]`.
    """
    head = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
    return reference_hidden(tensor, config, tokens) @ _float64(tensor, head).T


def reference_reward(tensor: Tensor, config: LFM2Config, tokens: np.ndarray) -> float:
    """What a reward model gives one sequence: its head at the last token."""
    return float(reference_hidden(tensor, config, tokens)[-1] @ _float64(tensor, "score.weight")[0])


def reference_hidden(tensor: Tensor, config: LFM2Config, tokens: np.ndarray) -> np.ndarray:
    """Final hidden states `[S, D]`, after the last norm."""

    def get(name: str) -> np.ndarray:
        return _float64(tensor, name)

    eps, sandwich = config.norm_eps, config.sandwich_norm
    x = get("model.embed_tokens.weight")[tokens]
    for i in range(len(config.layer_types)):
        prefix = f"model.layers.{i}."

        def layer(name: str, prefix: str = prefix) -> np.ndarray:
            return get(f"{prefix}{name}.weight")

        normed = _norm(x, layer("operator_norm"), eps)
        kind = config.layer_types[i]
        mixed = _conv(normed, layer, config.causal) if kind == "conv" else _attention(normed, layer, config, kind)
        x = x + (_norm(mixed, layer("post_operator_norm"), eps) if sandwich else mixed)
        normed = _norm(x, layer("ffn_norm"), eps)
        if config.num_experts and i >= config.num_dense_layers:
            fed = _mixture(normed, get, f"{prefix}feed_forward.", config)
        else:
            fed = _swiglu(normed, *(layer(f"feed_forward.{w}") for w in ("w1", "w2", "w3")))
        x = x + (_norm(fed, layer("post_ffn_norm"), eps) if sandwich else fed)
    return _norm(x, get("model.embedding_norm.weight"), eps)


def _swiglu(x: np.ndarray, w1: np.ndarray, w2: np.ndarray, w3: np.ndarray) -> np.ndarray:
    gate = x @ w1.T
    return (gate / (1 + np.exp(-gate)) * (x @ w3.T)) @ w2.T


def _mixture(x: np.ndarray, get: Tensor, prefix: str, config: LFM2Config) -> np.ndarray:
    """Token by token, each of its experts by itself."""
    scores = 1 / (1 + np.exp(-x @ get(f"{prefix}gate.weight").T))
    steered = scores + (get(f"{prefix}expert_bias") if config.use_expert_bias else 0)
    out = np.zeros_like(x)
    for t, token in enumerate(x):
        chosen = np.argsort(-steered[t], kind="stable")[: config.num_experts_per_tok]
        weights = scores[t, chosen]
        if config.norm_topk_prob:
            weights = weights / (weights.sum() + 1e-6)
        for expert, weight in zip(chosen, weights * config.routed_scaling_factor, strict=True):
            matrices = (get(f"{prefix}experts.{expert}.{w}.weight") for w in ("w1", "w2", "w3"))
            out[t] += weight * _swiglu(token, *matrices)
    return out


def _float64(tensor: Tensor, name: str) -> np.ndarray:
    return np.asarray(tensor(name)).astype(np.float64)


def _norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    return weight * x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)


def _conv(x: np.ndarray, layer: Tensor, causal: bool) -> np.ndarray:
    b, c, value = np.split(x @ layer("conv.in_proj").T, 3, axis=-1)
    taps = layer("conv.conv")[:, 0, :]
    k = taps.shape[1]
    u = np.pad(b * value, ((k - 1, 0) if causal else (k // 2, k - 1 - k // 2), (0, 0)))
    z = sum(taps[:, j] * u[j : j + len(x)] for j in range(taps.shape[1]))
    return (c * z) @ layer("conv.out_proj").T


def _attention(x: np.ndarray, layer: Tensor, config: LFM2Config, kind: str) -> np.ndarray:
    lfm3, sliding = config.model_type == "lfm3", kind == "sliding_attention"
    q_norm, k_norm, out = ("q_norm", "k_norm", "o_proj") if lfm3 else ("q_layernorm", "k_layernorm", "out_proj")
    heads, groups, eps = config.num_attention_heads, config.num_key_value_heads, config.norm_eps
    q, k, v = (
        (x @ layer(f"self_attn.{n}_proj").T).reshape(len(x), count, -1)
        for n, count in (("q", heads), ("k", groups), ("v", groups))
    )
    theta, share = (config.sliding_rope_theta, 1.0) if sliding else (config.rope_theta, config.partial_rotary_factor)
    q = _rotate(_norm(q, layer(f"self_attn.{q_norm}"), eps), theta, share)
    k = _rotate(_norm(k, layer(f"self_attn.{k_norm}"), eps), theta, share)
    back = np.arange(len(x))[:, None] - np.arange(len(x))
    reach = config.sliding_window if sliding else len(x)
    hidden = np.where(((back >= 0) & (back < reach)) | (not config.causal), 0.0, -np.inf)
    outs = []
    for h in range(heads):
        g = h // (heads // groups)
        scores = q[:, h] @ k[:, g].T / np.sqrt(q.shape[-1]) + hidden
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        outs.append(weights / weights.sum(axis=-1, keepdims=True) @ v[:, g])
    if config.attention_gate:
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
