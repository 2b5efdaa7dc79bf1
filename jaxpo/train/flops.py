"""Analytic floating-point operations of a training step, the formula behind the `tflops` metric."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.experts import active_fraction
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import leaves

EMBEDDING = "embed_tokens/weight"


def active_matrices(config: LFM2Config) -> float:
    """Entries of the weight matrices that one token is multiplied with."""
    return sum(_active(config).values())


def _active(config: LFM2Config) -> dict[str, float]:
    """Path -> entries of every matrix that a token is multiplied with; a separate embedding is a lookup."""
    return {
        path: p.size * active_fraction(p, config)
        for path, p in leaves(param_table(config))
        if len(p.shape) > 1 and (config.tie_word_embeddings or path != EMBEDDING)
    }


def training_flops_per_token(config: LFM2Config, context: float) -> float:
    """Multiply-adds counted as two, forward and backward (three times the forward), recomputation not counted.

        3 * (2 * N + 4 * H h * sum of c over the attention layers)

    with N the entries of the matrices that a token is multiplied with (the output matrix once, a separate embedding
    not, of E experts k), H h the query width, c the mean number of positions that a token attends to. In a layer with a
    window of w < 2 c it is w - w^2 / (4 c): the mean of min(t, w) over the 2 c positions of a segment.

    Args:
      context: mean attended positions per token (half the mean segment length for causal attention).
    """
    return 3.0 * (2.0 * active_matrices(config) + _attention(config, context, config.layer_types))


def spared_flops_per_token(
    config: LFM2Config, context: float, trained: Collection[str], *, reached: Collection[str]
) -> float:
    """What of `training_flops_per_token` is not computed where a part of the parameters is trained.

        2 * (entries of the fixed matrices) + 2 * (entries below) + 2 * (attention below),   below = layers < lowest

    A fixed matrix has no gradient of its own. Layers below the lowest parameter that a gradient must reach run forward
    alone; that parameter's own layer is counted whole.

    Args:
      trained: paths of the model's trained leaves.
      reached: paths that a gradient must reach: those, and those of adapters.
    """
    active = _active(config)
    lowest = min((_depth(path, config) for path in reached), default=config.num_hidden_layers)
    fixed = sum(n for path, n in active.items() if path not in trained)
    below = sum(n for path, n in active.items() if _layer(path) is not None and _depth(path, config) < lowest)
    return 2.0 * (fixed + below + _attention(config, context, config.layer_types[:lowest]))


def _layer(path: str) -> int | None:
    found = re.match(r"layers/(\d+)/", path)
    return None if found is None else int(found[1])


def _depth(path: str, config: LFM2Config) -> int:
    """The layer that a parameter lies in, that of the first for what feeds it, one beyond the last for the others."""
    layer = _layer(path)
    return layer if layer is not None else 0 if path.startswith(EMBEDDING) else config.num_hidden_layers


def _attention(config: LFM2Config, context: float, layers: Sequence[str]) -> float:
    """Operations of a forward pass per token between queries, keys and values."""
    width = config.num_attention_heads * config.head_dim
    return 4.0 * width * sum(_seen(context, config.window(kind)) for kind in layers if kind != "conv")


def _seen(context: float, window: int | None) -> float:
    if window is None or window >= 2 * context:
        return context
    return window - window**2 / (4 * context)
