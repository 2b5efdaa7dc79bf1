"""The text tower, and the adapter of a second encoder, as pure functions."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxpo.config.text_adapter import TextAdapter
from jaxpo.models.caption.config import CaptionConfig
from jaxpo.models.siglip.forward import affine, layer_norm
from jaxpo.ops.linear import rows

Tree = Any


def caption_states(
    params: Tree, tokens: Int[Array, "B L"], *, config: CaptionConfig, dtype: Any = jnp.float32
) -> Float[Array, "B L D"]:
    """States of captions, in `dtype`: a pre-norm transformer that looks both ways.

        h = E[tokens] + P;   h += Attn(LN h);   h += W_2 gelu_tanh(W_1 LN h);   LN h

    Every position is a key, the filled-up ones too, as in the text towers of released text-to-image models: how long
    a caption is can be read of its states, and the empty one is a caption like others.

    Args:
      tokens: ids, filled up with `EMPTY_ID`.

    Raises:
      ValueError: captions longer than `config.max_length`.
    """
    batch, length = tokens.shape
    if length > config.max_length:
        raise ValueError(f"captions of {length} tokens, and the tower has positions for {config.max_length}")
    h = rows(params["token_embedding"]["weight"], tokens, dtype)
    h = h + params["position_embedding"]["weight"][:length].astype(dtype)
    heads = (batch, length, config.num_attention_heads, -1)
    for i in range(config.num_hidden_layers):
        p = params["layers"][str(i)]
        normed = layer_norm(p["layer_norm1"], h, config.norm_eps)
        q, k, v = (affine(p["self_attn"][name], normed).reshape(heads) for name in ("q_proj", "k_proj", "v_proj"))
        h = h + affine(p["self_attn"]["out_proj"], jax.nn.dot_product_attention(q, k, v).reshape(h.shape))
        fed = affine(p["mlp"]["fc1"], layer_norm(p["layer_norm2"], h, config.norm_eps))
        h = h + affine(p["mlp"]["fc2"], jax.nn.gelu(fed, approximate=True))
    return layer_norm(params["final_layer_norm"], h, config.norm_eps)


def adapted_states(
    params: Tree, states: Float[Array, "B L c"], *, config: TextAdapter, dtype: Any = jnp.float32
) -> Float[Array, "B L D"]:
    """States of a second text encoder at the width of the first's, in `dtype`; to be appended along the sequence.

        y = FF_2(LN(FF_1(LN x))),    FF x = W_out (u gelu(g)) + b_out,    (u, g) = W_proj x + b_proj

    Reference: Liu et al. 2025, arXiv:2410.11817, section 3.1; gating: Shazeer 2020, arXiv:2002.05202, eq. 6.
    """
    h = states.astype(dtype)
    for i in ("0", "1"):
        p = params["layers"][i]
        u, g = jnp.split(affine(p["proj"], layer_norm(p["norm"], h, config.norm_eps)), 2, axis=-1)
        h = affine(p["out"], u * jax.nn.gelu(g, approximate=False))
    return h
