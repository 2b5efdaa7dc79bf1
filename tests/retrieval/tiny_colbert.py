"""The spec's tiny LFM2-ColBERT: two layers, a vocabulary of 41, every parameter a sine of its place."""

import functools

import jax.numpy as jnp
import numpy as np

from jaxpo.convert.hf import value_of
from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.lfm2.table import param_table
from jaxpo.models.spec import leaves, map_table

CONFIG = LFM2Config(
    vocab_size=41,
    hidden_size=16,
    intermediate_size=24,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
    layer_types=("conv", "full_attention"),
)
QUERY = np.array([1, 39, 8, 9, 10, *[7] * 7])
DOCUMENTS = ([1, 40, 8, 9, 10, 36, 11], [1, 40, 20, 21, 22])
SKIPPED = 36


def fill(name, shape):
    """`0.1 sin(0.7 i + h(name))`, one more for norms."""
    h = sum((i + 1) * ord(letter) for i, letter in enumerate(name)) % 997
    values = 0.1 * np.sin(0.7 * np.arange(np.prod(shape)) + h) + name.endswith("norm.weight")
    return values.reshape(shape).astype(np.float32)


class Filled:
    """A tensor of a file."""

    def __init__(self, name, shape):
        self.name, self.shape = name, shape

    def read(self):
        return fill(self.name, self.shape)


@functools.cache
def params(config=CONFIG):
    from jaxpo.convert.hf import disk_shape

    table = param_table(config)
    stored = {p.hf: Filled(p.hf.removeprefix("model."), disk_shape(p)) for _, p in leaves(table)}
    model = map_table(lambda p: jnp.asarray(value_of(p, stored)), table)
    return {"model": model, "projection": {"0": {"weight": jnp.asarray(fill("linear.weight", (8, 16)).T)}}}
