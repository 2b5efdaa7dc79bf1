"""What ties that a coin has labelled add to a step's gradient."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from evidence.claims._points import network, pretrained, taken
from evidence.claims.smpo_diffusion import TIED, by_hard_labels, by_soft_labels, with_ties
from evidence.harness import Claim
from jax.flatten_util import ravel_pytree

CLAIM = Claim(
    method="smpo_diffusion",
    paper="arXiv:2506.02698",
    claim="Exact ties under a coin's labels make a tenth or more of the length of Diffusion-DPO's first gradient on 64 "
    "pairs of which 30% are ties, and exactly nothing of SmPO's.",
    baseline="Diffusion-DPO on hard labels",
    measure="length of the ties' part of the gradient over that of the whole, DPO's minus SmPO's; -1 where SmPO's is "
    "not 0",
    seeds=(0, 1, 2, 3, 4),
    threshold=0.1,
)


@functools.partial(jax.jit, static_argnums=0)
def _share(loss, base, data, key):
    tied = jnp.arange(int(TIED * len(data.chosen)))
    length = lambda batch: jnp.linalg.norm(ravel_pytree(jax.grad(loss)(base, base, batch, key))[0])  # noqa: E731
    return length(taken(data, tied)) * TIED / length(data)


def measure(seed: int) -> dict[str, float]:
    start, learn, data, draw = jax.random.split(jax.random.key(seed), 4)
    base = pretrained(network(start), learn, steps=1500)
    labelled = with_ties(data, 64, "right")
    ours, theirs = (float(_share(loss, base, labelled, draw)) for loss in (by_soft_labels, by_hard_labels))
    return {"method": ours, "baseline": theirs, "effect": theirs - ours if ours == 0 else -1.0}
