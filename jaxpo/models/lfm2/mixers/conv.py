"""The gated short convolution."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.mixers.base import Mixer, Packed, See, Step, unseen
from jaxpo.models.lfm2.params import matrix
from jaxpo.models.lfm2.recompute import keep
from jaxpo.models.spec import Layout, Param, Table, normal
from jaxpo.ops.conv import gated_short_conv, short_conv_step
from jaxpo.ops.linear import linear
from jaxpo.ops.prefix import continued_conv
from jaxpo.sharding import constrain

Tree = Any
_PER_GATE = ((0,), (2,))

# B, C and x lie one after another in the released in_proj [3D, D]. An axis of their own keeps a tensor-sharded channel
# axis from running across the three.
GATES = Layout(
    to_disk=lambda x: x.reshape(x.shape[0], -1).T,
    from_disk=lambda x, shape: x.T.reshape(shape),
)
TAPS = Layout(
    to_disk=lambda x: x.T[:, None, :],
    from_disk=lambda x, shape: x[:, 0, :].T,
)


def conv_table(config: LFM2Config, hf: str) -> Table:
    """`in_proj` [D, 3, D], taps [k, D], `out_proj` [D, D]. Muon sees each gate as a matrix of its own."""
    d, k = config.hidden_size, config.conv_kernel
    std = config.initializer_range
    return {
        "in_proj": {
            "weight": Param(
                (d, 3, d), ("embed", None, "conv"), normal(std), f"{hf}.in_proj.weight", GATES, muon=_PER_GATE
            )
        },
        # A tap's fan-in is k, whatever the width of the model.
        "conv": {"weight": Param((k, d), (None, "conv"), normal(k**-0.5), f"{hf}.conv.weight", TAPS)},
        "out_proj": matrix(config, d, d, ("conv", "embed"), f"{hf}.out_proj.weight"),
    }


def conv_mixer(
    params: Tree,
    x: Float[Array, "R S D"],
    where: Packed | Step,
    config: LFM2Config,
    cache: Tree,
    see: See = unseen,
) -> tuple[Float[Array, "R S D"], Tree]:
    """`out_proj(C * conv(B * x))` with `(B, C, x) = in_proj(h)`.

    In a causal model h is 0 where a position is no key, as transformers blanks padding; the released bidirectional ones
    blank nothing.
    """
    if isinstance(where, Packed) and where.causal and where.key_ids is not None:
        x = jnp.where((where.key_ids > 0)[..., None], x, jnp.zeros((), x.dtype))
    gates = keep(constrain(linear(x, params["in_proj"]["weight"]), "batch", "sequence", None, "conv_act"))
    b, c, value = gates[..., 0, :], gates[..., 1, :], gates[..., 2, :]
    for name, gate in (("b", b), ("c", c), ("x", value)):
        see(name, gate)
    kernel = params["conv"]["weight"]
    if isinstance(where, Packed):
        out = gated_short_conv(gates, kernel, where.segment_ids, where.causal, implementation=where.conv)
        if where.prefix is not None:
            out = continued_conv(out, gates, kernel, where.segment_ids, where.prefix)
    else:
        u, past = b * value, cache["columns"]
        z, columns = short_conv_step(u, kernel, past, where.count)
        joined = jnp.concatenate([past, u.astype(past.dtype)], axis=1)
        out, cache = c * z, {"columns": columns.astype(past.dtype), **where.borders(columns=joined)}
    out = constrain(out, "batch", "sequence", "conv_act")
    see("out", out)
    return linear(out, params["out_proj"]["weight"]), cache


def conv_cache(config: LFM2Config, batch: int, length: int, dtype: Any) -> Tree:
    """The last k-1 columns of `B * x`."""
    return {"columns": jnp.zeros((batch, config.conv_kernel - 1, config.hidden_size), dtype)}


def conv_flops(config: LFM2Config, context: float) -> float:
    """The taps are weights, counted as such."""
    return 0.0


CONV = Mixer("conv", conv_table, conv_mixer, conv_cache, conv_flops)
