"""LongAlign's reward stage on a small denoiser of features: does an image still say which caption it was made for?"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from evidence.claims._points import SCHEDULE, descend, network, noise_of, pretrained
from evidence.claims.longalign_features import captions, unit
from evidence.harness import Claim

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
def _found(params, texts, key):
    """How often the caption is the one with the largest score, less what all captions have in common."""
    which, noise = jax.random.split(key)
    kind = jax.random.randint(which, (2048,), 0, CAPTIONS)
    told = jax.nn.one_hot(kind, CAPTIONS)
    x = sample(SCHEDULE, lambda x, t: noise_of(params, x, t, told), jax.random.normal(noise, (2048, SIZE)), SRC, DST)
    v = common_direction(texts)
    own = texts - (texts @ v)[:, None] * v
    return jnp.mean(jnp.argmax(unit(x) @ own.T, axis=1) == kind)


def measure(seed: int) -> dict[str, float]:
    text, start, learn, run, look = jax.random.split(jax.random.key(seed), 5)
    texts = captions(text, CAPTIONS, SIZE)
    base = pretrained(network(start, size=SIZE, condition=CAPTIONS), learn, texts, steps=800, draw=_draw)
    of_base = float(_found(base, texts, look))
    ours, theirs = (float(_found(_rewarded(base, texts, run, omega), texts, look)) for omega in (0.3, 1.0))
    return {
        "method": ours,
        "baseline": theirs,
        "effect": ours - theirs if ours >= of_base - 0.01 else -1.0,
        "the base": of_base,
    }
