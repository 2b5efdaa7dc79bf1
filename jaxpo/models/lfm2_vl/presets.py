"""The released sizes, and one for trying things. Of the 3B the connector is taken to be the 1.6B's: its file was not
at hand."""

from __future__ import annotations

from jaxpo.models.lfm2.presets import PRESETS as TEXT
from jaxpo.models.lfm2_vl.config import LFM2VLConfig
from jaxpo.models.siglip.config import SiglipConfig

BASE = SiglipConfig()
SO400M = SiglipConfig(hidden_size=1152, intermediate_size=4304, num_hidden_layers=27, num_attention_heads=16)
NANO = SiglipConfig(
    hidden_size=64,
    intermediate_size=192,
    num_hidden_layers=3,
    num_attention_heads=4,
    patch_size=4,
    num_patches=64,
    initializer_range=0.05,
)

PRESETS: dict[str, LFM2VLConfig] = {
    "nano_vl": LFM2VLConfig(TEXT["nano"], NANO, projector_hidden_size=128),
    "lfm2_vl_450m": LFM2VLConfig(TEXT["lfm2_350m"], BASE),
    "lfm2_vl_1_6b": LFM2VLConfig(TEXT["lfm2_1_2b"], SO400M),
    "lfm2_vl_3b": LFM2VLConfig(TEXT["lfm2_2_6b"], SO400M),
}
