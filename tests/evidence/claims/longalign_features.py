"""LongAlign's reweighted reward on free image features: what is the caption's own stays apart."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from evidence.harness import Claim

from jaxpo.losses import common_direction, longalign, reweighted

CAPTIONS, SIZE, STEPS, RATE = 64, 32, 200, 1.0

CLAIM = Claim(
    method="longalign",
    paper="arXiv:2410.11817",
    claim="Image features that climb the reward with omega 0.3 end with a larger gap between the text-relevant score "
    "of their own caption and of others than with omega 1.",
    baseline="omega 1, the score itself",
    measure="mean text-relevant score of pairs minus that of non-pairs, omega 0.3 minus omega 1",
    seeds=(0, 1, 2, 3, 4),
    threshold=0.1,
)


def unit(x):
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def captions(key, n, size, common=0.8):
    """Unit texts `[n, size]` that share a direction."""
    shared, own = jax.random.split(key)
    return unit(common * unit(jax.random.normal(shared, (size,))) + (1 - common**2) ** 0.5 * unit(
        jax.random.normal(own, (n, size))
    ))  # fmt: skip


def measure(seed: int) -> dict[str, float]:
    text, image = jax.random.split(jax.random.key(seed))
    t = captions(text, CAPTIONS, SIZE)
    v = common_direction(t)
    start = unit(0.5 * t + unit(jax.random.normal(image, t.shape)))

    def gap(omega):
        climb = jax.grad(lambda g: jnp.sum(longalign(g, t, v, omega=omega)))
        g = unit(jax.lax.fori_loop(0, STEPS, lambda _, g: unit(g - RATE * climb(g)), start))
        table = g @ reweighted(t, v, omega=0.0).T
        pairs = jnp.mean(jnp.diag(table))
        return pairs - (jnp.mean(table) - pairs / CAPTIONS) * CAPTIONS / (CAPTIONS - 1)

    ours, theirs = (float(jax.jit(gap, static_argnums=0)(omega)) for omega in (0.3, 1.0))
    return {"method": ours, "baseline": theirs, "effect": ours - theirs}
