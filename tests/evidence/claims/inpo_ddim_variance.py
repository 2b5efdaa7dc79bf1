"""How much the gradient of a step depends on what is drawn: an inverted latent against fresh noise."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from evidence.claims._points import REWARDS, network, pairs, pretrained
from evidence.claims.inpo_ddim import by_inversion, by_noise
from evidence.harness import Claim
from jax.flatten_util import ravel_pytree

DRAWS = 32

CLAIM = Claim(
    method="inpo_ddim",
    paper="arXiv:2503.18454",
    claim="Over 32 redraws of times and noise on the same 64 pairs, the first step's gradient varies less, relative "
    "to its mean, under DDIM-InPO than under Diffusion-DPO.",
    baseline="Diffusion-DPO",
    measure="trace of the gradients' covariance over the squared length of their mean: 1 - InPO's / DPO's",
    seeds=(0, 1, 2, 3, 4),
    threshold=0.2,
)


@functools.partial(jax.jit, static_argnums=0)
def _spread(loss, base, batch, key):
    gradient = jax.grad(lambda p, k: loss(p, base, batch, k))
    flat = jax.vmap(lambda k: ravel_pytree(gradient(base, k))[0])(jax.random.split(key, DRAWS))
    return jnp.sum(jnp.var(flat, axis=0)) / jnp.sum(jnp.mean(flat, axis=0) ** 2)


def measure(seed: int) -> dict[str, float]:
    start, learn, data, redraw = jax.random.split(jax.random.key(seed), 4)
    base = pretrained(network(start), learn, steps=1500)
    batch = pairs(data, 64, REWARDS["right"])
    ours, theirs = (float(_spread(loss, base, batch, redraw)) for loss in (by_inversion, by_noise))
    return {"method": ours, "baseline": theirs, "effect": 1.0 - ours / theirs}
