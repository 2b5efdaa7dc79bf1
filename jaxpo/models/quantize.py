"""A model for generation with its matrices in eight bits, and what that does to its distribution.

Quantised: every projection of attention, convolution and feed-forward, the experts, and the output matrix, which with
tied embeddings is the embedding. Left as they are: norms, convolution taps, routers, biases (a few thousand values that
steer everything else) and an embedding of its own, of which a step reads one row.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpo.errors import ConfigError
from jaxpo.losses.vocab import kl_divergence
from jaxpo.models.family import TextConfig, family, output_matrix
from jaxpo.models.language import Inputs
from jaxpo.models.spec import Param, Table, leaves, map_table
from jaxpo.ops.head import map_vocab
from jaxpo.ops.linear import Standing
from jaxpo.ops.quant import quantise
from jaxpo.sharding import current_mesh

Tree = Any
MODES = ("int8",)
"""What `quantized` and `--quantize` accept."""

_quantise = jax.jit(quantise, static_argnames="axis")


def quantized(params: Tree, config: TextConfig, mode: str = "int8") -> Tree:
    """The same model with `jaxpo.ops.quant.Quant` in the place of its matrices: see above for which.

    Args:
      params: the model's own tree, not changed.
      mode: one of `MODES`.

    Raises:
      ConfigError: another mode, weights that are no arrays, or experts on a mesh of several devices.
    """
    if mode not in MODES:
        raise ConfigError(f"quantize is {mode!r}; choose {' or '.join(map(repr, MODES))}, or leave it out")
    mesh = current_mesh()
    if family(config).experts(config) is not None and mesh is not None and mesh.size > 1:
        raise ConfigError(
            f"quantize is {mode!r}, and experts of 8-bit integers are not divided among devices; leave out quantize, "
            "or the mesh"
        )
    table = family(config).table(config)
    named = zip(leaves(table), jax.tree.leaves(params, is_leaf=_stands), strict=True)
    wrong = [f"{path} is a {type(w).__name__}" for (path, _), w in named if _stands(w)]
    if wrong:
        raise ConfigError(f"{wrong[0]}, and only arrays are quantised; merge adapters into the model first")
    axes = contracted_axes(table, config)

    def build(param: Param, w: Any) -> Any:
        axis = axes[id(param)]
        return w if axis is None else _quantise(w, axis=axis)

    return map_table(build, table, params)


def contracted_axes(table: Table, config: TextConfig) -> dict[int, int | None]:
    """`id(param) -> the axis that products contract`; None of what stays as it is.

    A mixture has no output matrix of its own: those of its parts stay as they are.
    """
    head = None if family(config).unembedding is None else output_matrix(table, config)
    return {id(param): -1 if param is head else _contracted(param) for _, param in leaves(table)}


def _contracted(param: Param) -> int | None:
    """The reduction axis of what Muon sees as matrices: projections and experts."""
    return None if param.muon is None else param.muon[0][0]


def _stands(w: Any) -> bool:
    return isinstance(w, Standing)


def quantization_kl(
    params: Tree, quantised: Tree, config: TextConfig, texts: Sequence[Sequence[int]], *, dtype: Any = jnp.float32
) -> float:
    """Mean over all positions of `sum_v p_v (log p_v - log q_v)`, p the model's distribution and q the quantised one's.

    Args:
      texts: token ids, BOS included.
      dtype: compute type of both.

    Returns:
      Nats per token.

    Raises:
      ConfigError: no tokens.
    """
    total, count = 0.0, sum(map(len, texts))
    if not count:
        raise ConfigError("the divergence of a quantised model needs at least one token of text")
    for text in texts:
        width = -(-len(text) // _LENGTHS) * _LENGTHS
        tokens = np.zeros((1, width), np.int32)
        tokens[0, : len(text)] = text
        segments = (np.arange(width) < len(text)).astype(np.int32)[None]
        total += float(_divergence(params, quantised, tokens, segments, config=config, dtype=jnp.dtype(dtype)))
    return total / count


_LENGTHS = 128
"""Texts are padded to multiples of it, so that few programs are compiled."""


@functools.partial(jax.jit, static_argnames=("config", "dtype"))
def _divergence(params: Tree, quantised: Tree, tokens: Any, segments: Any, *, config: TextConfig, dtype: Any) -> Any:
    inputs = Inputs(tokens, segments, jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape))

    def stream(model: Tree) -> tuple[Any, Any]:
        hidden, _ = family(config).forward(model, inputs, config=config, dtype=dtype)
        return output_matrix(model, config), hidden

    found = map_vocab(lambda p, q, _: kl_divergence(p, q), (stream(params), stream(quantised)), ())
    return jnp.sum(jnp.where(segments > 0, found, 0.0))
