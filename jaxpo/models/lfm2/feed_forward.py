"""The dense feed-forward: its parameters and its forward. `jaxpo.models.lfm2.experts` has the mixture."""

from __future__ import annotations

from typing import Any

from jaxtyping import Array, Float

from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.mixers.base import See, unseen
from jaxpo.models.lfm2.params import matrix
from jaxpo.models.spec import Table
from jaxpo.ops.linear import linear
from jaxpo.ops.swiglu import swiglu
from jaxpo.sharding import constrain

Tree = Any


def feed_forward_table(config: LFM2Config, hf: str) -> Table:
    """SwiGLU: `w1` gate, `w3` up, `w2` down."""
    d, f = config.hidden_size, config.intermediate_size
    return {
        "w1": matrix(config, d, f, ("embed", "mlp"), f"{hf}.w1.weight"),
        "w2": matrix(config, f, d, ("mlp", "embed"), f"{hf}.w2.weight"),
        "w3": matrix(config, d, f, ("embed", "mlp"), f"{hf}.w3.weight"),
    }


def feed_forward(params: Tree, x: Float[Array, "R S D"], see: See = unseen) -> Float[Array, "R S D"]:
    """SwiGLU: `w2(silu(w1 x) * (w3 x))` (Shazeer 2020, arXiv 2002.05202, eq. 6)."""
    gate, up = linear(x, params["w1"]["weight"]), linear(x, params["w3"]["weight"])
    hidden = constrain(swiglu(gate, up), "batch", "sequence", "mlp_act")
    see("hidden", hidden)
    return linear(hidden, params["w2"]["weight"])
