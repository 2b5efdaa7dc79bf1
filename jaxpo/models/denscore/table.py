"""The towers' parameter table, and what a pair of picture and caption costs."""

from __future__ import annotations

import math

from jaxpo.models.denscore.config import DenscoreConfig
from jaxpo.models.parts import Flops
from jaxpo.models.siglip.table import linear_table
from jaxpo.models.spec import Param, Table, normal, zeros


def denscore_table(config: DenscoreConfig) -> Table:
    """`image/{fc1,fc2}`, `text/{embedding,fc1,fc2}`, and `log_scale`, the logarithm of the scores' factor."""
    pixels, hidden, out = config.sample_size**2 * config.in_channels, config.hidden_size, config.projection_dim

    def projection(n_in: int, n_out: int, name: str) -> Table:
        return linear_table(n_in, n_out, (None, None), n_in**-0.5, name)

    words = Param((config.vocab_size, hidden), (None, None), normal(1.0), "text.embedding.weight", decay=False)
    return {
        "image": {"fc1": projection(pixels, hidden, "image.fc1"), "fc2": projection(hidden, out, "image.fc2")},
        "text": {
            "embedding": {"weight": words},
            "fc1": projection(hidden, hidden, "text.fc1"),
            "fc2": projection(hidden, out, "text.fc2"),
        },
        "log_scale": Param((1,), (None,), zeros, "log_scale", decay=False),
    }


def flops_per_pair(config: DenscoreConfig, context: float) -> Flops:
    """One picture and one segment: every matrix once."""
    pixels, hidden, out = config.sample_size**2 * config.in_channels, config.hidden_size, config.projection_dim
    return Flops(float(math.fsum((pixels * hidden, hidden * hidden, 2 * hidden * out))), 0.0)
