"""LongAlign's reward stage on a small denoiser of features: does an image still say which caption it was made for?"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from evidence.claims._points import SCHEDULE, descend, network, noise_of, pretrained
from evidence.claims.longalign_features import captions, unit
from evidence.harness import Claim, NotReproduced

from jaxpo.diffusion.ddim import sample
from jaxpo.diffusion.route import kept_steps, linear_route
from jaxpo.diffusion.schedules import destinations, times
from jaxpo.losses import common_direction, longalign

CAPTIONS, SIZE, BATCH, STEPS, RATE = 16, 8, 64, 100, 1e-3
SRC = times("trailing", 25)
DST = destinations(SRC)

CLAIM = Claim(
    method="longalign",
    paper="arXiv:2410.11817",
    claim="After 100 steps along the linear route, features drawn for one of 16 captions are found by it more often "
    "when the reward has omega 0.3 than when it has omega 1, and not less often than the base's.",
    baseline="omega 1, the score itself",
    measure="share of features whose caption has the largest text-relevant score, omega 0.3 minus omega 1; -1 where it "
    "is below the base's by more than 0.01",
    seeds=(0, 1, 2, 3, 4),
    threshold=0.02,
    not_reproduced=NotReproduced(
        "No difference at all: with either omega 100 steps draw each caption's features together at one place, and the "
        "few captions that have a nearer neighbour are lost to it in both. The share rises from 0.58 to 0.92. How far "
        "apart captions lie is `longalign_gap`.",
        (-0.005, 0.005),
    ),
)


def _draw(texts, key, n):
    """Features about twice their caption's text, and the caption's one-hot number."""
    which, where = jax.random.split(key)
    kind = jax.random.randint(which, (n,), 0, CAPTIONS)
    return 2.0 * texts[kind] + 0.5 * jax.random.normal(where, (n, SIZE)), jax.nn.one_hot(kind, CAPTIONS)


@functools.partial(jax.jit, static_argnames="omega")
def _rewarded(base, texts, key, omega):
    """The base after the reward stage; V is that of the step's captions."""

    def loss(params, key):
        which, noise, start = jax.random.split(key, 3)
        kind = jax.random.randint(which, (BATCH,), 0, CAPTIONS)
        told = jax.nn.one_hot(kind, CAPTIONS)
        kept = kept_steps(jax.random.randint(start, (), 0, 5), len(SRC), 5)
        x = jax.random.normal(noise, (BATCH, SIZE))
        found = linear_route(SCHEDULE, lambda x, t: noise_of(params, x, t, told), x, SRC, DST, kept)
        return jnp.mean(longalign(found, texts[kind], common_direction(texts[kind]), omega=omega))

    return descend(base, loss, jax.random.split(key, STEPS), RATE)


@jax.jit
def figures(params, texts, key):
    """By the text-relevant score: how often the caption is the one with the largest, and its mean less the others'."""
    which, noise = jax.random.split(key)
    kind = jax.random.randint(which, (2048,), 0, CAPTIONS)
    told = jax.nn.one_hot(kind, CAPTIONS)
    x = sample(SCHEDULE, lambda x, t: noise_of(params, x, t, told), jax.random.normal(noise, (2048, SIZE)), SRC, DST)
    v = common_direction(texts)
    own = texts - (texts @ v)[:, None] * v
    table = unit(x) @ own.T
    mine = jnp.mean(jnp.sum(table * told, axis=1))
    others = (jnp.mean(table) * CAPTIONS - mine) / (CAPTIONS - 1)
    return jnp.mean(jnp.argmax(table, axis=1) == kind), mine - others


def stages(seed):
    """`figures` of the base and after the reward stage with omega 0.3 and 1."""
    text, start, learn, run, look = jax.random.split(jax.random.key(seed), 5)
    texts = captions(text, CAPTIONS, SIZE)
    base = pretrained(network(start, size=SIZE, condition=CAPTIONS), learn, texts, steps=800, draw=_draw)
    trained = (_rewarded(base, texts, run, omega) for omega in (0.3, 1.0))
    return [jax.device_get(figures(params, texts, look)) for params in (base, *trained)]


def measure(seed: int) -> dict[str, float]:
    of_base, ours, theirs = (float(found[0]) for found in stages(seed))
    return {
        "method": ours,
        "baseline": theirs,
        "effect": ours - theirs if ours >= of_base - 0.01 else -1.0,
        "the base": of_base,
    }
