"""A generator that chooses what an answer is about, how long it is and whether it repeats itself, and REINFORCE."""

from __future__ import annotations

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxpo.data.rows.formats import Row
from jaxpo.judges.asking import Item
from jaxpo.online.rewards.r3 import R3Reward

ASKED = [f"topic{i}" for i in range(8)]
LIMIT, BATCH, STEPS, RATE, HABIT = 60, 64, 1500, 0.2, 2.0
"""Words that an answer may have; of the training; how much likelier (in logits) a repetition is before it."""


def text(about: str, distinct: int, repeats: int) -> str:
    """An answer: the question again, or every third word of it among new ones, or other words alone."""
    fresh = [f"new{i}" for i in range(distinct)]
    on = [ASKED[i // 3 % 8] if i % 3 == 0 else fresh[i] for i in range(distinct)]
    own = {"copy": ASKED[:distinct], "on": on, "off": [f"other{i}" for i in range(distinct)]}[about]
    return " ".join(own * repeats)


CHOICES = [
    (about, distinct, repeats)
    for about, distinct, repeats in itertools.product(("copy", "on", "off"), (6, 20, 60), (1, 3))
    if distinct * repeats <= LIMIT and (about != "copy" or distinct <= len(ASKED))
]
WORDS = np.asarray([distinct * repeats for _, distinct, repeats in CHOICES])


def rewards(how: R3Reward, kind: str) -> np.ndarray:
    """Of every choice; the reference answer is six words on the topic."""
    row = Row(Path("toy"), 1, {"query_type": kind, "reference": text("on", 6, 1)})
    items = [Item(" ".join(ASKED), text(*choice), row) for choice in CHOICES]
    return how.scores(items, how.encoder.open(lambda name: None))


def trained(key, table: np.ndarray, *, strays: float = 0.0) -> np.ndarray:
    """`[choices]` probabilities after REINFORCE on these rewards, with standardised advantages.

    Args:
      strays: how much likelier, in logits, an answer off the topic is before it.
    """
    habits = [HABIT * (repeats > 1) + strays * (about == "off") for about, _, repeats in CHOICES]
    start = jnp.asarray(habits, jnp.float32)
    return np.asarray(_reinforce(key, jnp.asarray(table, jnp.float32), start))


@jax.jit
def _reinforce(key, table, start):
    def step(theta, key):
        chosen = jax.random.categorical(key, theta, shape=(BATCH,))
        r = table[chosen]
        advantages = (r - jnp.mean(r)) / (jnp.std(r) + 1e-8)
        return theta + RATE * jax.grad(lambda t: jnp.mean(advantages * jax.nn.log_softmax(t)[chosen]))(theta), None

    theta, _ = jax.lax.scan(step, start, jax.random.split(key, STEPS))
    return jax.nn.softmax(theta)
