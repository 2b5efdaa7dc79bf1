"""Two models that write one text together: at every token a mixture of their distributions.

A combination and no model of its own: its tree is `{"first": ..., "second": ...}`, its hidden states are those of both
side by side, and the engine runs it as it runs any other. Loads jax only where a function runs it.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from jaxpo.models.family import Family, TextConfig, decoder, family, output_matrix
from jaxpo.models.lfm2.family import FAMILY as LFM2
from jaxpo.models.parts import Decoder, Experts, Flops, Limits

if TYPE_CHECKING:
    from jax import Array

    from jaxpo.models.spec import Table

Tree = Any
FIRST, SECOND = "first", "second"


@dataclass(frozen=True)
class Mixture:
    """Which models, and how their distributions are mixed at every token.

        geometric:  p = softmax((1 - w) z_1 + w z_2),   z the logits
        arithmetic: p = (1 - w) softmax(z_1) + w softmax(z_2)

    Attributes:
      first, second: models of one vocabulary.
      weight: w of the second, in [0, 1].

    Reference: Munos et al. 2023, arXiv:2312.00886, section 7 (geometric); Gu et al. 2023, arXiv:2306.08543, section 2.2
    (arithmetic).
    """

    first: TextConfig
    second: TextConfig
    weight: float
    rule: Literal["geometric", "arithmetic"]

    @property
    def vocab_size(self) -> int:
        """Of both."""
        return self.first.vocab_size

    @property
    def hidden_size(self) -> int:
        """Of both together."""
        return self.first.hidden_size + self.second.hidden_size

    @property
    def num_hidden_layers(self) -> int:
        """Of both together."""
        return self.first.num_hidden_layers + self.second.num_hidden_layers

    @property
    def bos_token_id(self) -> int:
        """Of the first."""
        return self.first.bos_token_id

    @property
    def eos_token_id(self) -> int:
        """Of the first."""
        return self.first.eos_token_id

    @property
    def pad_token_id(self) -> int:
        """Of the first."""
        return self.first.pad_token_id


def _parts(config: Mixture) -> tuple[tuple[str, TextConfig], ...]:
    return ((FIRST, config.first), (SECOND, config.second))


def limits(config: Mixture) -> Limits:
    """The context that both have."""
    return Limits(min(family(c).limits(c).context for _, c in _parts(config)), config.vocab_size)


def experts(config: Mixture) -> Experts | None:
    """Those of the first that has some."""
    return next((found for _, c in _parts(config) if (found := family(c).experts(c)) is not None), None)


def table(config: Mixture) -> Table:
    """Parameters of both."""
    return {name: family(c).table(c) for name, c in _parts(config)}


def flops(config: Mixture, context: float) -> Flops:
    """The work of both."""
    each = [family(c).flops(c, context) for _, c in _parts(config)]
    return Flops(sum(one.matrices for one in each), sum(one.mixing for one in each))


def forward(params: Tree, inputs: Any, *, config: Mixture, **options: Any) -> tuple[Array, dict[str, Any]]:
    """Hidden states of both side by side, `[R, S, D_1 + D_2]`."""
    import jax.numpy as jnp

    each = [family(c).forward(params[name], inputs, config=c, **options)[0] for name, c in _parts(config)]
    return jnp.concatenate(each, axis=-1), {}


def logits(params: Tree, hidden: Array, config: Mixture) -> Array:
    """See `Mixture`: logits of its distribution, float32 `[..., V]`."""
    import jax
    import jax.numpy as jnp

    from jaxpo.ops.linear import einsum

    border = config.first.hidden_size
    sides = (hidden[..., :border], hidden[..., border:])
    first, second = (
        einsum("...d,vd->...v", h, output_matrix(params[name], c), out_dtype=jnp.float32)
        for h, (name, c) in zip(sides, _parts(config), strict=True)
    )
    w = config.weight
    if config.rule == "geometric" or w in (0.0, 1.0):
        return (1 - w) * first + w * second
    each = (jax.nn.log_softmax(first, axis=-1) + math.log1p(-w), jax.nn.log_softmax(second, axis=-1) + math.log(w))
    return jnp.logaddexp(*each)


def cache(config: Mixture, batch: int, length: int, dtype: Any, pages: tuple[int, int] | None = None) -> Any:
    """One cache with the layers of both, which see the same positions."""
    first, second = (decoder(c).cache(c, batch, length, dtype, pages) for _, c in _parts(config))
    return dataclasses.replace(first, layers=_joined(first.layers, second.layers))


def step(params: Tree, tokens: Array, cache: Any, *, config: Mixture, **options: Any) -> tuple[Array, Any]:
    """Both take the same tokens."""
    import jax.numpy as jnp

    hidden, after = [], []
    for name, own in _parts(config):
        part = dataclasses.replace(cache, layers=_of(cache.layers, name), borders=None)
        states, part = decoder(own).step(params[name], tokens, part, config=own, **options)
        hidden.append(states)
        after.append(part)
    first, second = after
    borders = None if first.borders is None else _joined(first.borders, second.borders)
    return jnp.concatenate(hidden, axis=-1), dataclasses.replace(
        first, layers=_joined(first.layers, second.layers), borders=borders
    )


def _joined(first: Tree, second: Tree) -> Tree:
    return {f"{name}/{i}": entry for name, layers in ((FIRST, first), (SECOND, second)) for i, entry in layers.items()}


def _of(layers: Tree, name: str) -> Tree:
    return {i.partition("/")[2]: entry for i, entry in layers.items() if i.startswith(f"{name}/")}


assert LFM2.decoder is not None
FAMILY = Family(
    name="mixture",
    limits=limits,
    table=table,
    forward=forward,
    flops=flops,
    experts=experts,
    logits=logits,
    decoder=Decoder(cache, step, per_position=LFM2.decoder.per_position),
)
