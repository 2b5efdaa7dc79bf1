"""A whole family of models in one file: `h_t = sigmoid(a) h_{t-1} + E[x_t]`, per segment, and tied logits of `h W`.

It has neither experts nor attention, cannot generate and lies in no Hugging Face file.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxpo.errors import ConfigError
from jaxpo.models.family import Family
from jaxpo.models.parts import Flops, Limits
from jaxpo.models.spec import Param, normal, zeros


@dataclass(frozen=True)
class LinearRNNConfig:
    vocab_size: int = 64
    hidden_size: int = 12
    context: int = 512
    bos_token_id: int = 1
    eos_token_id: int = 2
    pad_token_id: int = 0

    @property
    def num_hidden_layers(self):
        return 1


def table(config):
    v, d = config.vocab_size, config.hidden_size
    return {
        "embedding": {"weight": Param((v, d), ("vocab", "embed"), normal(0.3))},
        "decay": {"weight": Param((d,), ("norm",), zeros, decay=False)},
        "out_proj": {"weight": Param((d, d), ("embed", None), normal(d**-0.5), muon=((0,), (1,)))},
    }


def forward(params, inputs, *, config, dtype=jnp.float32, tap=None, **how):
    """Recomputation and implementations of parts that it does not have mean nothing to it."""
    if inputs.media:
        raise ConfigError(f"the batch carries {', '.join(sorted(inputs.media))}, which a linear RNN cannot read")
    x = jnp.take(params["embedding"]["weight"], inputs.tokens, axis=0, mode="clip").astype(dtype)
    keep = jax.nn.sigmoid(params["decay"]["weight"]).astype(dtype) * (inputs.positions > 0)[..., None]

    def read(h, now):
        h = now[0] * h + now[1]
        return h, h

    first = jnp.zeros_like(x[:, 0])
    _, states = jax.lax.scan(read, first, (jnp.moveaxis(keep, 1, 0), jnp.moveaxis(x, 1, 0)))
    hidden = jnp.moveaxis(states, 0, 1) @ params["out_proj"]["weight"].astype(dtype)
    seen = None if tap is None else tap("out_proj", hidden)
    return hidden, {"taps": {} if seen is None else {"out_proj": seen}}


FAMILY = Family(
    name="linear rnn",
    limits=lambda config: Limits(config.context, config.vocab_size),
    table=table,
    forward=forward,
    flops=lambda config, context: Flops(config.hidden_size * (config.hidden_size + config.vocab_size), 0.0),
    unembedding=lambda params: params["embedding"]["weight"],
    presets={"tiny_rnn": LinearRNNConfig()},
)
ENTRY = ("fakes.linear_rnn:LinearRNNConfig", "fakes.linear_rnn:FAMILY")
"""What enrols it in `jaxpo.models.family.FAMILIES`."""
