"""LFM2-VL from its equations, in numpy float64, on tensors as a Hugging Face file holds them; see LFM2's own.

One image at a time, patches row by row, nothing packed: it shares no code and no order with the forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.special import erf

from jaxpo.models.export import Seen, Tensor
from jaxpo.models.lfm2.reference import reference_hidden as text_hidden
from jaxpo.models.lfm2.reference import reference_logits as text_logits
from jaxpo.models.lfm2_vl.config import LFM2VLConfig
from jaxpo.models.lfm2_vl.file_names import CONNECTOR, TEXT, VISION

IMAGE = (4, 6)
"""Rows and columns of the patches of the image that files are compared on."""
FIRST = 3
"""Where its vectors begin."""


def seen(config: LFM2VLConfig) -> Seen:
    """Noise in the form of a small image."""
    rows, columns = IMAGE
    patches = np.random.default_rng(1).standard_normal((rows * columns, config.vision.patch_values))
    return Seen(patches.astype(np.float32), rows, columns, FIRST, config.image_token_id)


def reference_logits(tensor: Tensor, config: LFM2VLConfig, tokens: np.ndarray) -> np.ndarray:
    """Logits `[S, V]` in float64 of one sequence, in which the vectors of `seen` stand."""
    image = seen(config)
    vectors = reference_vectors(tensor, config, image.patches, image.rows)
    # As if they were further rows of the embedding.
    ids, words = np.array(tokens), np.asarray(tensor(f"{TEXT}.embed_tokens.weight")).astype(np.float64)
    ids[FIRST : FIRST + len(vectors)] = len(words) + np.arange(len(vectors))
    inner = _text(tensor, {"model.embed_tokens.weight": np.concatenate([words, vectors])})
    return text_logits(inner, config.text, ids)[:, : len(words)]


def reference_text(tensor: Tensor, config: LFM2VLConfig, tokens: np.ndarray) -> np.ndarray:
    """Final hidden states `[S, D]` of text alone."""
    return text_hidden(_text(tensor, {}), config.text, tokens)


def _text(tensor: Tensor, instead: Mapping[str, np.ndarray]) -> Tensor:
    """The language model's tensors under the names that they have alone."""

    def get(name: str) -> np.ndarray:
        return instead[name] if name in instead else tensor(name.replace("model", TEXT, 1))

    return get


def reference_vectors(tensor: Tensor, config: LFM2VLConfig, patches: np.ndarray, rows: int) -> np.ndarray:
    """What the embeddings of one image become, `[rows / 2 * columns / 2, D]` in float64.

    Args:
      patches: `[rows * columns, C]` normalised, row by row.
    """

    def get(name: str) -> np.ndarray:
        return np.asarray(tensor(f"{CONNECTOR}.{name}")).astype(np.float64)

    grid = reference_hidden(tensor, config, patches, rows).reshape(rows, len(patches) // rows, -1)
    four = [grid[a::2, b::2] for a in (0, 1) for b in (0, 1)]
    x = np.concatenate(four, -1).reshape(-1, 4 * grid.shape[-1])
    if config.projector_use_layernorm:
        x = _norm(x, get("layer_norm.weight"), get("layer_norm.bias"), 1e-5)
    bias = [get(f"linear_{i}.bias") if config.projector_bias else 0.0 for i in (1, 2)]
    inner = x @ get("linear_1.weight").T + bias[0]
    return 0.5 * inner * (1 + erf(inner / np.sqrt(2))) @ get("linear_2.weight").T + bias[1]


def reference_hidden(tensor: Tensor, config: LFM2VLConfig, patches: np.ndarray, rows: int) -> np.ndarray:
    """The tower's last hidden states of one image, `[rows * columns, D]`."""
    vision = config.vision

    def get(name: str) -> np.ndarray:
        return np.asarray(tensor(f"{VISION}.{name}")).astype(np.float64)

    def affine(x: np.ndarray, name: str) -> np.ndarray:
        return x @ get(f"{name}.weight").T + get(f"{name}.bias")

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return _norm(x, get(f"{name}.weight"), get(f"{name}.bias"), vision.layer_norm_eps)

    columns = len(patches) // rows
    table = get("embeddings.position_embedding.weight").reshape(vision.grid, vision.grid, -1)
    down, across = _resized(rows, vision.grid), _resized(columns, vision.grid)
    positions = np.einsum("is,jt,std->ijd", down, across, table).reshape(len(patches), -1)
    x = affine(patches.astype(np.float64), "embeddings.patch_embedding") + positions
    for i in range(vision.num_hidden_layers):
        at = f"encoder.layers.{i}."
        normed = norm(x, at + "layer_norm1")
        q, k, v = (
            affine(normed, f"{at}self_attn.{name}_proj").reshape(len(x), vision.num_attention_heads, -1)
            for name in "qkv"
        )
        scores = np.einsum("shd,thd->hst", q, k) / np.sqrt(vision.head_dim)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        x = x + affine(np.einsum("hst,thd->shd", weights, v).reshape(len(x), -1), at + "self_attn.out_proj")
        inner = affine(norm(x, at + "layer_norm2"), at + "mlp.fc1")
        inner = 0.5 * inner * (1 + np.tanh(np.sqrt(2 / np.pi) * (inner + 0.044715 * inner**3)))
        x = x + affine(inner, at + "mlp.fc2")
    return norm(x, "post_layernorm")


def _resized(size: int, n: int) -> np.ndarray:
    """`[size, n]`: how much each of n entries counts at each of `size` places, bilinear with antialiasing."""
    scale = n / size
    centre = (np.arange(size) + 0.5) * scale - 0.5
    weights = np.maximum(0.0, 1 - np.abs(np.arange(n) - centre[:, None]) / max(scale, 1.0))
    return np.asarray(weights / weights.sum(1, keepdims=True))


def _norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return np.asarray(centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * weight + bias)
