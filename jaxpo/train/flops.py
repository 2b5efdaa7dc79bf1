"""Analytic floating-point operations of a training step, the formula behind the `tflops` metric."""

from __future__ import annotations

import math

from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import leaves


def training_flops_per_token(config: LFM2Config, context: float) -> float:
    """Multiply-adds counted as two, forward and backward (three times the forward), recomputation not counted.

        3 * (2 * N + 4 * c * H * h * n_attention)

    with N the entries of all weight matrices including the tied output matrix once, c the mean number of positions a
    token attends to, H h the query width.

    Args:
      context: mean attended positions per token (half the mean segment length for causal attention).
    """
    matrices = sum(math.prod(p.shape) for _, p in leaves(param_table(config)) if len(p.shape) > 1)
    attention = 4 * context * config.num_attention_heads * config.head_dim
    layers = sum(kind != "conv" for kind in config.layer_types)
    return 3.0 * (2.0 * matrices + attention * layers)
