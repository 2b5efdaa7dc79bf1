"""Parameters and inputs that a formula gives, so that values of models can be written down."""

import jax.numpy as jnp
import numpy as np

from jaxpo.models.spec import map_table


def values(name, shape):
    """`0.1 sin(0.7 i + h)`, h a checksum of the name; 1 more for the weights of norms."""
    checksum = sum((i + 1) * ord(c) for i, c in enumerate(name)) % 997
    filled = 0.1 * np.sin(0.7 * np.arange(int(np.prod(shape))) + checksum)
    if len(shape) == 1 and "norm" in name and name.endswith("weight"):
        filled = filled + 1.0
    return filled.astype(np.float32).reshape(shape)


def filled(table):
    """A model whose tensors hold `values` as they lie in a file."""

    def one(param):
        on_disk = param.layout.to_disk(np.zeros(param.shape, np.float32)).shape
        return jnp.asarray(param.layout.from_disk(values(param.hf, on_disk), param.shape))

    return map_table(one, table)


def inputs(context_width):
    """Two 8 x 8 images of 4 channels, their times and texts of 5 states."""
    x = np.cos(0.3 * np.arange(2 * 4 * 8 * 8)).reshape(2, 4, 8, 8).transpose(0, 2, 3, 1)
    context = np.sin(0.2 * np.arange(2 * 5 * context_width)).reshape(2, 5, context_width)
    return jnp.asarray(x, jnp.float32), jnp.asarray([7, 501]), jnp.asarray(context, jnp.float32)


def as_stored(out):
    """`[B, C, H, W]` float64, as the written-down values are ordered."""
    return np.asarray(out, np.float64).transpose(0, 3, 1, 2)
