"""An example of every family of models: what enrols a family in the tests of all of them."""

from __future__ import annotations

import dataclasses
from typing import Any

from contracts.harness import CONFIG

from jaxpo.models.lfm2_vl.config import LFM2VLConfig
from jaxpo.models.siglip.config import SiglipConfig

TEXT = dataclasses.replace(CONFIG, layer_types=("conv", "full_attention"))
TOWER = SiglipConfig(
    hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2, patch_size=2, num_patches=4
)
EXAMPLES: dict[str, Any] = {
    "jaxpo.models.lfm2.config:LFM2Config": TEXT,
    "jaxpo.models.lfm2_vl.config:LFM2VLConfig": LFM2VLConfig(TEXT, TOWER, image_token_id=30, projector_hidden_size=10),
}
"""As in `FAMILIES` -> a small configuration that reads text."""
