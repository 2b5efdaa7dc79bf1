"""The released sizes without conditions on resolution, and one that trains on a laptop."""

from __future__ import annotations

from jaxpo.config.noise import NoiseSchedule
from jaxpo.models.caption.config import CaptionConfig
from jaxpo.models.dit.config import DiTConfig

# Of all released PixArt models.
_PIXART = NoiseSchedule("linear", beta_start=1e-4, beta_end=0.02)

PRESETS: dict[str, DiTConfig] = {
    # 16 tokens of an 8 x 8 image; captions from a small vocabulary.
    "nano_dit": DiTConfig(
        sample_size=8,
        patch_size=2,
        in_channels=3,
        out_channels=3,
        num_layers=4,
        num_attention_heads=4,
        attention_head_dim=16,
        caption_channels=64,
        caption=CaptionConfig(),
    ),
    "pixart_alpha_512": DiTConfig(sample_size=64, schedule=_PIXART),
    "pixart_sigma_512": DiTConfig(sample_size=64, schedule=_PIXART),
    "pixart_sigma_1024": DiTConfig(sample_size=128, interpolation_scale=2.0, schedule=_PIXART),
}
