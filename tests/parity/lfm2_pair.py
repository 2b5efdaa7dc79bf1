"""One random tiny LFM2 or LFM3 in transformers and in jaxpo, with every leaf randomised."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from transformers import (
    Lfm2Config,
    Lfm2ForCausalLM,
    Lfm2MoeConfig,
    Lfm2MoeForCausalLM,
    Lfm3Config,
    Lfm3ForCausalLM,
)

from jaxpo.convert.fused_experts import per_expert
from jaxpo.convert.hf import disk_shape, import_hf
from jaxpo.convert.shards import Stored
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.forward import forward, unembedding
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import leaves

SHAPES: dict[str, dict[str, Any]] = {
    "conv_first": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "block_auto_adjust_ff_dim": False,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "layer_types": ["conv", "conv", "full_attention", "conv"],
    },
    # The published feed-forward rule (60 -> 40 -> 48), one key-value head, four taps, and every layer after attention.
    "adjusted": {
        "hidden_size": 48,
        "intermediate_size": 60,
        "block_multiple_of": 16,
        "num_attention_heads": 6,
        "num_key_value_heads": 1,
        "conv_L_cache": 4,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        "layer_types": ["full_attention", "conv", "full_attention"],
    },
    "ungrouped": {
        "hidden_size": 24,
        "intermediate_size": 40,
        "block_auto_adjust_ff_dim": False,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "norm_eps": 1e-3,
        "full_attn_idxs": [1],
        "num_hidden_layers": 2,
    },
    # LFM3 as released (pattern, kernel 7, gate, sandwich norms, half of the head turned) with wide heads.
    "lfm3": {
        "model_type": "lfm3",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "sliding_window": 5,
        "layer_types": ["conv", "conv", "full_attention", "conv", "sliding_attention"],
    },
    # Every switch the other way: an output matrix of its own, 2 of 5 pairs turned, a window beyond the kernel.
    "lfm3_untied": {
        "model_type": "lfm3",
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 10,
        "sliding_window": 9,
        "conv_L_cache": 4,
        "use_sandwich_norm": False,
        "tie_word_embeddings": False,
        "rope_parameters": {
            "full_attention": {"rope_type": "proportional", "rope_theta": 1e3, "partial_rotary_factor": 0.45},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e2},
        },
        "layer_types": ["sliding_attention", "full_attention", "conv", "sliding_attention"],
    },
    "lfm3_ungated": {
        "model_type": "lfm3",
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "sliding_window": 1,
        "use_attention_gate": False,
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
        "layer_types": ["conv", "full_attention", "sliding_attention"],
    },
    # Experts from the second layer on; a scaled, biased choice of 2 among 5.
    "experts": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "moe_intermediate_size": 24,
        "num_experts": 5,
        "num_experts_per_tok": 2,
        "num_dense_layers": 1,
        "routed_scaling_factor": 1.5,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "layer_types": ["conv", "full_attention", "conv"],
    },
    # Every layer a mixture, weights not normalised, no bias.
    "bare_experts": {
        "hidden_size": 24,
        "intermediate_size": 40,
        "moe_intermediate_size": 16,
        "num_experts": 4,
        "num_experts_per_tok": 3,
        "num_dense_layers": 0,
        "norm_topk_prob": False,
        "use_expert_bias": False,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "layer_types": ["full_attention", "conv"],
    },
}


CLASSES = {
    "lfm2": (Lfm2Config, Lfm2ForCausalLM),
    "lfm2_moe": (Lfm2MoeConfig, Lfm2MoeForCausalLM),
    "lfm3": (Lfm3Config, Lfm3ForCausalLM),
}


def _held(values: np.ndarray) -> Stored:
    """An array as a tensor of an open folder, which may be read in pieces."""

    def piece(first: int, shape: tuple[int, ...]) -> np.ndarray:
        return values.reshape(-1)[first : first + math.prod(shape)].reshape(shape)

    return Stored(values.shape, "F32", lambda: values, piece)


@dataclass(frozen=True)
class Pair:
    """The same weights twice."""

    torch_model: Any
    params: Any
    config: LFM2Config

    def torch_gradients(self) -> dict[str, np.ndarray]:
        """Under the names of the file: LFM3's gate, and fused experts one by one, are renamed by transformers."""
        found = self.torch_model.named_parameters()
        grads = {name.replace(".g_proj.", ".gate_proj."): p.grad.numpy() for name, p in found}
        tensors = per_expert({name: _held(g) for name, g in grads.items()})
        return {name: tensor.read() for name, tensor in tensors.items()}

    def gradients_as_stored(self, tree: Any) -> dict[str, np.ndarray]:
        """Our gradient tree under the names and in the layouts of the file."""
        stored = {}
        for (_, param), value in zip(leaves(param_table(self.config)), jax.tree.leaves(tree), strict=True):
            if param.buffer:
                np.testing.assert_array_equal(value, 0)
                continue
            for name, part in zip(param.tensors, [value] if isinstance(param.hf, str) else value, strict=True):
                stored[name] = param.layout.to_disk(np.asarray(part))
                assert stored[name].shape == disk_shape(param)
        return stored


def make_pair(name: str, folder: Path) -> Pair:
    """Build in transformers, randomise everything, save with transformers, read with our importer."""
    shape = {"num_hidden_layers": len(SHAPES[name].get("layer_types", [])), **SHAPES[name]}
    torch.manual_seed(0)
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 7}
    config_of, model_of = CLASSES[shape.pop("model_type", "lfm2_moe" if "num_experts" in shape else "lfm2")]
    model = model_of(config_of(vocab_size=61, attn_implementation="eager", **ids, **shape)).eval()
    with torch.no_grad():
        for key, p in model.named_parameters():
            if key.endswith("norm.weight"):
                p.copy_(1 + 0.3 * torch.randn_like(p))
            else:
                if key.endswith("conv.conv.weight"):
                    std = 0.6
                else:
                    std = 0.5 if "embed" in key or "head" in key else p.shape[-1] ** -0.5
                p.copy_(std * torch.randn_like(p))
        for key, buffer in model.named_buffers():
            if key.endswith("expert_bias"):
                buffer.copy_(0.2 * torch.randn_like(buffer))
    model.save_pretrained(folder)
    params, config = import_hf(folder)
    return Pair(model, params, config)


@partial(jax.jit, static_argnames=("config", "max_segment"))
def logits_and_gradient(
    params: Any,
    tokens: Any,
    segments: Any,
    positions: Any,
    cotangent: Any,
    *,
    config: LFM2Config,
    max_segment: Any = None,
) -> tuple[Any, Any]:
    """Logits, and the gradient of `sum(logits * cotangent)`."""

    def f(params: Any) -> tuple[Any, Any]:
        hidden, _ = forward(params, tokens, segments, positions, config=config, max_segment=max_segment)
        logits = hidden @ unembedding(params).T
        return jnp.sum(logits * cotangent), logits

    gradient, logits = jax.grad(f, has_aux=True)(params)
    return logits, gradient


def run_torch(pair: Pair, tokens: np.ndarray, cotangent: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Logits of transformers; adds to the gradients of its parameters."""
    options = {} if mask is None else {"attention_mask": torch.from_numpy(mask.astype(np.int64))}
    logits = pair.torch_model(torch.from_numpy(tokens), use_cache=False, **options).logits
    (logits * torch.from_numpy(cotangent)).sum().backward()
    return logits.detach().numpy()


def error(ours: Any, theirs: Any) -> float:
    """Largest difference over largest value: max |a - b| / max |b|."""
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


def check_gradients(pair: Pair, gradient: Any, tolerance: float = 1e-4) -> float:
    """Every leaf within `tolerance`; returns the worst."""
    ours, theirs = pair.gradients_as_stored(gradient), pair.torch_gradients()
    assert ours.keys() == theirs.keys()
    # One token attends to itself alone: queries and keys have gradient zero, against which nothing can be relative.
    overall = max(np.abs(g).max() for g in theirs.values())
    worst = {name: np.abs(ours[name] - g).max() / (np.abs(g).max() or overall) for name, g in theirs.items()}
    assert max(worst.values()) <= tolerance, {n: e for n, e in worst.items() if e > tolerance}
    return max(worst.values())
