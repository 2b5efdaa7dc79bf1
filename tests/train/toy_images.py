"""A batch that knows no token, and what can be trained on it: denoising by one matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from jaxpo.data.packing.batch import split_leading
from jaxpo.objectives.base import Mean, Objective, Out
from jaxpo.train.init import build_state

SIDE, BLOCK = 3, 2
WIDTH = SIDE * SIDE
OPTIMIZER = optax.adam(3e-2)


@struct.dataclass
class Images:
    """One row is one example: `pixels [N, SIDE, SIDE]`; `number [N]` is -1 where there is none."""

    pixels: jax.Array
    number: jax.Array
    scale: float = struct.field(pytree_node=False, default=1.0)

    @property
    def rows(self):
        return len(self.number)

    @property
    def blocks(self):
        return self.rows // BLOCK

    @property
    def present(self):
        return self.number >= 0

    def split(self, parts):
        return jax.tree.map(lambda x: split_leading(x, self.blocks, parts), self)

    def tally(self):
        nothing = jnp.zeros((), jnp.int32)
        return {"tokens": nothing, "trained": nothing, "samples": jnp.sum(self.present)}


def images(rows, first=0, absent=()):
    """Images of rank one, without those in these blocks."""
    rng = np.random.default_rng(first)
    pixels = rng.normal(size=(rows, SIDE, 1)) * rng.normal(size=(rows, 1, SIDE))
    number = np.where(np.isin(np.arange(rows) // BLOCK, absent), -1, np.arange(first, first + rows))
    return Images(pixels.astype(np.float32), number.astype(np.int32))


def denoising(*, coupled=False, ran=None):
    """Squared error of the denoised image; coupled: its variance over the images of the step.

        e_i = |W (x_i + 0.5 n_i) - x_i|^2,   L = sum_i e_i / N   or   sum_i (e_i - mean(e))^2 / N

    Args:
      ran: called on the host once for every time that the network runs.
    """

    def encode(params, frozen, batch, rng):
        if ran is not None:
            jax.debug.callback(ran)
        x = batch.pixels.reshape(-1, WIDTH)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(rng, batch.number)
        noisy = x + 0.5 * jax.vmap(lambda key: jax.random.normal(key, (WIDTH,)))(keys)
        error = jnp.sum((noisy @ params["model"]["w"] - x) ** 2, axis=-1)
        return {"error": error, "present": batch.present}, {}

    def loss(features, batch, carry, counts):
        error, here = features["error"], features["present"]
        if coupled:
            mean = jnp.sum(jnp.where(here, error, 0)) / counts["images"]
            error = (error - mean) ** 2
        total = jnp.sum(jnp.where(here, error, 0))
        count = jnp.sum(here.astype(jnp.float32))
        return Out(total / counts["images"], {"error": Mean(total, count)}, {"seen": count})

    counts = lambda batch: {"images": jnp.maximum(jnp.sum(batch.present).astype(jnp.float32), 1.0)}  # noqa: E731
    return Objective("denoising", counts, encode, loss, coupled=coupled)


@jax.jit
def new_state():
    params = {"model": {"w": jnp.zeros((WIDTH, WIDTH))}}
    return build_state(params, OPTIMIZER, denoising(), jax.random.key(5))
