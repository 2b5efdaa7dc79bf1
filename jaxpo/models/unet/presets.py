"""Stable Diffusion 1.5 and 2.1 (the one of 512 pixels and the one of 768), and one that runs on a laptop."""

from __future__ import annotations

import dataclasses

from jaxpo.config.noise import NoiseSchedule
from jaxpo.models.caption.config import CaptionConfig
from jaxpo.models.unet.config import UNetConfig

_SD15 = UNetConfig(schedule=NoiseSchedule(clean="first"))
_SD21_BASE = dataclasses.replace(
    _SD15, cross_attention_dim=1024, attention_heads=(5, 10, 20, 20), use_linear_projection=True
)

PRESETS: dict[str, UNetConfig] = {
    # 8 x 8 images; captions from a small vocabulary. A diffusion transformer of its size trains several times faster.
    "nano_unet": UNetConfig(
        sample_size=8,
        in_channels=3,
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention=(True, True),
        cross_attention_dim=64,
        attention_heads=(4, 4),
        norm_num_groups=8,
        caption=CaptionConfig(),
    ),
    "stable_diffusion_1_5": _SD15,
    "stable_diffusion_2_1_base": _SD21_BASE,
    "stable_diffusion_2_1": dataclasses.replace(
        _SD21_BASE, sample_size=96, schedule=NoiseSchedule(clean="first", parameterisation="velocity")
    ),
}
