"""Analytic floating-point operations of a training step, the formula behind the `tflops` metric."""

from __future__ import annotations

import math

from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import leaves


def training_flops_per_token(config: LFM2Config, context: float) -> float:
    """Multiply-adds counted as two, forward and backward (three times the forward), recomputation not counted.

        3 * (2 * N + 4 * H h * sum of c over the attention layers)

    with N the entries of all weight matrices that multiply (the output matrix once, a separate embedding not), H h the
    query width, c the mean number of positions that a token attends to. In a layer with a window of w < 2 c it is
    w - w^2 / (4 c): the mean of min(t, w) over the 2 c positions of a segment.

    Args:
      context: mean attended positions per token (half the mean segment length for causal attention).
    """
    matrices = sum(math.prod(p.shape) for _, p in leaves(param_table(config)) if len(p.shape) > 1)
    if not config.tie_word_embeddings:
        matrices -= config.vocab_size * config.hidden_size
    width = config.num_attention_heads * config.head_dim
    seen = sum(_seen(context, config.window(kind)) for kind in config.layer_types if kind != "conv")
    return 3.0 * (2.0 * matrices + 4.0 * width * seen)


def _seen(context: float, window: int | None) -> float:
    if window is None or window >= 2 * context:
        return context
    return window - window**2 / (4 * context)
