"""A decoder of latents that is made in no time, and the folder of its VAE as diffusers writes it."""

from __future__ import annotations

import json

import numpy as np
from diffusion.filled import filled
from safetensors.numpy import save_file

from jaxpo.models.family import param_table
from jaxpo.models.spec import leaves
from jaxpo.models.vae.config import VAEDecoderConfig

TINY = VAEDecoderConfig(block_out_channels=(4, 8), layers_per_block=1, norm_num_groups=2, shift_factor=0.1)
DOCUMENT = {
    "_class_name": "AutoencoderKL", "act_fn": "silu", "block_out_channels": [4, 8], "down_block_types": ["x"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2, "in_channels": 3, "latent_channels": 4, "layers_per_block": 1,
    "norm_num_groups": 2, "out_channels": 3, "sample_size": 4, "shift_factor": 0.1,
}  # fmt: skip


def model():
    """Filled by a formula."""
    return filled(param_table(TINY))


def folder_of(path, names=lambda name: name, **changes):
    """Its config.json and weights, the encoder's beside; `names` says how tensors are called."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps(DOCUMENT | changes))
    tensors = {}
    for at, param in leaves(param_table(TINY)):
        value = model()
        for key in at.split("/"):
            value = value[key]
        tensors[names(param.hf)] = np.ascontiguousarray(param.layout.to_disk(np.asarray(value)))
    save_file(
        tensors | {"encoder.conv_in.weight": np.zeros(3, np.float32)}, path / "diffusion_pytorch_model.safetensors"
    )
    return path
