"""Models that are written and read in no time."""

from jaxpo.config.noise import NoiseSchedule
from jaxpo.models.caption.config import CaptionConfig
from jaxpo.models.dit.config import DiTConfig
from jaxpo.models.unet.config import UNetConfig

TOWER = CaptionConfig(vocab_size=9, hidden_size=12, intermediate_size=8, num_attention_heads=2, max_length=6)
DIT = DiTConfig(sample_size=8, num_layers=1, num_attention_heads=2, attention_head_dim=4, caption_channels=12)
UNET = UNetConfig(
    sample_size=8,
    block_out_channels=(4, 8),
    layers_per_block=1,
    cross_attention=(True, True),
    cross_attention_dim=12,
    attention_heads=(2, 2),
    norm_num_groups=2,
    schedule=NoiseSchedule(clean="first", parameterisation="velocity"),
)
PIPELINES = {
    "unet": UNET,
    "dit": DiTConfig(
        sample_size=8,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=4,
        caption_channels=12,
        user_channels=4,
        caption=TOWER,
    ),
}
"""One of each family, the second with all that diffusers has no place for."""
