"""A policy that writes iid tokens from {good, bad, filler, end}, and an annotator with a taste for length.

Quality is the share of good minus that of bad tokens; expected length is 1 / p(end). Both are exact.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Loss = Callable[[jax.Array, Any], jax.Array]
GOOD, BAD, FILLER, END = range(4)
START = np.log(np.array([0.3, 0.3, 0.36, 0.04], np.float32))
LONGEST = 160
LENGTH_BONUS = 0.01
"""Per token. Against a quality that varies by about 0.15, the longer response wins some three pairs in four."""


def pairs(seed: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Tokens and masks `[n, LONGEST]` of the preferred and the other response, both written by the first policy."""
    rng = np.random.default_rng(seed)
    tokens = rng.choice(4, size=(2, n, LONGEST), p=np.exp(START) / np.exp(START).sum())
    ended = np.cumsum(tokens == END, axis=-1)
    mask = (ended == 0) | ((ended == 1) & (tokens == END))
    length = mask.sum(-1)
    score = (((tokens == GOOD) & mask).sum(-1) - ((tokens == BAD) & mask).sum(-1)) / length + LENGTH_BONUS * length
    first = score[0] >= score[1]
    pick = lambda x, w: np.where((first == w)[:, None], x[0], x[1])  # noqa: E731
    return pick(tokens, True), pick(tokens, False), pick(mask, True), pick(mask, False)


def train(loss: Loss, data: Any, steps: int, learning_rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Full-batch gradient descent on the mean of `loss(logits, data)`: expected length and quality after every step."""
    probabilities = np.asarray(_descend(jnp.asarray(START), data, learning_rate, loss=loss, steps=steps), np.float64)
    return 1.0 / probabilities[:, END], probabilities[:, GOOD] - probabilities[:, BAD]


@partial(jax.jit, static_argnames=("loss", "steps"))
def _descend(start: jax.Array, data: Any, learning_rate: float, *, loss: Loss, steps: int) -> jax.Array:
    def step(logits: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        logits = logits - learning_rate * jax.grad(lambda x: jnp.mean(loss(x, data)))(logits)
        return logits, jax.nn.softmax(logits)

    return jax.lax.scan(step, start, None, length=steps)[1]
