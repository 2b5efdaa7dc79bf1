"""What ExecuTorch's LFM2 export needs beside a checkpoint, and what it cannot express."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from jaxpo.convert.shards import SINGLE
from jaxpo.ops.grids import GRIDS, split

PARAMS, INSTEAD = "params.json", "instead.safetensors"
"""Files beside the checkpoint: the shape, and tensors that take the place of what the weights are converted to."""
ROUNDED = ("proj.weight", "w1.weight", "w2.weight", "w3.weight")
TAPS = 3
STEPS = 7.5
"""torchao's scale of a group is `max |w| / 7.5`."""


def inexpressible(config: Any) -> list[str]:
    """Features that its export reads from no file."""
    if config.model_type == "lfm2_vl":
        return ["ExecuTorch runs LFM2, and this is lfm2_vl"]
    problems = []
    if config.model_type != "lfm2":
        problems.append(f"ExecuTorch runs LFM2, and this is {config.model_type}")
    if getattr(config, "num_experts", None):
        problems.append("ExecuTorch's LFM2 has no experts")
    if not config.tie_word_embeddings:
        problems.append("ExecuTorch's converter of LFM2's weights passes an output matrix of its own by")
    if config.conv_kernel != TAPS:
        problems.append(f"ExecuTorch's convolution has {TAPS} taps, and this one {config.conv_kernel}")
    return problems


def write_inputs(folder: Path, config: Any, dtype: str) -> None:
    """`params.json`, and for 8da4w weights whose rounding there gives back those that lie on its grid here."""
    params = {
        "dim": config.hidden_size,
        "hidden_dim": config.intermediate_size,
        "n_heads": config.num_attention_heads,
        "n_kv_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "n_layers": config.num_hidden_layers,
        "norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "vocab_size": config.vocab_size,
        "use_scaled_rope": False,
        "use_hf_rope": True,
        "use_qk_norm": True,
        "qk_norm_before_rope": True,
        "layer_types": list(config.layer_types),
    }
    (folder / PARAMS).write_text(json.dumps(params, indent=1) + "\n", encoding="utf-8")
    if dtype == "8da4w":
        tensors = load_file(folder / SINGLE)
        moved = {name: preimage(w) for name, w in tensors.items() if name.endswith(ROUNDED)}
        save_file(tensors | moved, folder / SINGLE, metadata={"format": "pt"})
        save_file({"output.weight": preimage(tensors["model.embed_tokens.weight"])}, folder / INSTEAD)


def preimage(w: np.ndarray) -> np.ndarray:
    """Weights that torchao rounds to `w`, where `w` lies on the grid: the outermost codes, -8 and 7, stand at 7.5
    scales, from which torchao finds the scale again and rounds them back.
    """
    to = GRIDS["8da4w"]
    if not to.fits(w.shape[-1]):
        return w
    parts = split(w, to)
    scale = np.maximum(parts.max(-1) / np.float32(to.high), parts.min(-1) / np.float32(to.low))
    codes = parts / np.where(scale == 0, 1, scale)[..., None]
    on_grid = ((codes == np.round(codes)).all(-1) & (scale > 0))[..., None]
    outermost = on_grid & ((codes == to.low) | (codes == to.high))
    parts = np.where(outermost, np.sign(codes) * np.float32(STEPS) * scale[..., None], parts).astype(np.float32)
    return parts.reshape(w.shape)
