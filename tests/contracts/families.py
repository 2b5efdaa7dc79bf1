"""An example of every family of models: what enrols a family in the tests of all of them."""

from __future__ import annotations

import dataclasses
from typing import Any

from contracts.harness import CONFIG

EXAMPLES: dict[str, Any] = {
    "jaxpo.models.lfm2.config:LFM2Config": dataclasses.replace(CONFIG, layer_types=("conv", "full_attention")),
}
"""As in `FAMILIES` -> a small configuration that reads text."""
