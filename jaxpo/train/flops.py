"""Analytic floating-point operations of a training step, the formula behind the `tflops` metric."""

from __future__ import annotations

from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.experts import active_fraction
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import leaves


def active_matrices(config: LFM2Config) -> float:
    """Entries of the weight matrices that one token is multiplied with."""
    table = param_table(config)
    matrices = sum(p.size * active_fraction(p, config) for _, p in leaves(table) if len(p.shape) > 1)
    return matrices if config.tie_word_embeddings else matrices - config.vocab_size * config.hidden_size


def training_flops_per_token(config: LFM2Config, context: float) -> float:
    """Multiply-adds counted as two, forward and backward (three times the forward), recomputation not counted.

        3 * (2 * N + 4 * H h * sum of c over the attention layers)

    with N the entries of the matrices that a token is multiplied with (the output matrix once, a separate embedding
    not, of E experts k), H h the query width, c the mean number of positions that a token attends to. In a layer with a
    window of w < 2 c it is w - w^2 / (4 c): the mean of min(t, w) over the 2 c positions of a segment.

    Args:
      context: mean attended positions per token (half the mean segment length for causal attention).
    """
    width = config.num_attention_heads * config.head_dim
    seen = sum(_seen(context, config.window(kind)) for kind in config.layer_types if kind != "conv")
    return 3.0 * (2.0 * active_matrices(config) + 4.0 * width * seen)


def _seen(context: float, window: int | None) -> float:
    if window is None or window >= 2 * context:
        return context
    return window - window**2 / (4 * context)
