"""How many values of each layer stay for the backward pass, from shapes alone. Imports no jax."""

from __future__ import annotations

from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.parts import Kept


def kept_values(config: LFM2Config, remat: str, tensor: int = 1) -> Kept:
    """Values per token, counted from the products of a layer, with D the width, w those of the mixer, F of the MLP.

        none    w + z + 3 D + 4 F   all that is computed, z what the mixer makes of its products
        dots    D + w + D + 2 F     input, products of the mixer, what it adds, gate and up
        mixer   D + w + D + o       the same without the feed-forward, with o what attention found
        full    D                   the input
        offload 0                   likewise, elsewhere; `offload_dots` keeps the input alone

    The four of a feed-forward are gate, up, their product, and the tanh of the backward pass, which XLA's CPU backend
    computes in the forward pass; compiled there, a layer of a convolution keeps 11 D + 4 F.
    A convolution has w = 3 D and z = 3 D; attention w = (H + 2 G) h and z = (2 H + G) h. Where k experts compute a
    token, its 4 F are k (4 F_e + 2 D). Whatever is kept, the backward pass holds one layer with the cotangents of it.

    Args:
      tensor: devices among which products are split.
    """
    layers = [_layer(config, i) for i in range(config.num_hidden_layers)]
    d = float(config.hidden_size)
    of = {
        "none": lambda w, z, o, f: 3 * d + (w + z + 4 * f) / tensor,
        "dots": lambda w, z, o, f: 2 * d + (w + 2 * f) / tensor,
        "mixer": lambda w, z, o, f: 2 * d + (w + o) / tensor,
        "full": lambda w, z, o, f: d,
        "offload": lambda w, z, o, f: 0.0,
        "offload_dots": lambda w, z, o, f: d,
    }
    working = max(of["none"](*layer) for layer in layers)
    keys = 2 * config.num_key_value_heads * config.head_dim / tensor
    return Kept(
        sum(of[remat](*layer) for layer in layers),
        working if remat == "none" else 2 * working,
        keys if "full_attention" in config.layer_types else 0.0,
    )


def _layer(config: LFM2Config, index: int) -> tuple[float, float, float, float]:
    """`(w, z, o, F)` of a layer."""
    d, h = config.hidden_size, config.head_dim
    heads, groups = config.num_attention_heads * h, config.num_key_value_heads * h
    conv = config.layer_types[index] == "conv"
    w, z, o = (3 * d, 3 * d, 0) if conv else (heads + 2 * groups, 2 * heads + groups, heads)
    if config.is_mixture(index):
        return w, z, o, config.num_experts_per_tok * (config.moe_intermediate_size + d / 2)
    return w, z, o, config.intermediate_size
