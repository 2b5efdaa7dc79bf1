"""A small contrastive model of pictures and captions: how well a picture fits a caption, clause by clause.

What LongAlign needs of a preference model (Denscore): both towers give directions, a long caption is the mean of its
clauses' directions, and the score has gradients in the picture's pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from jaxpo.corpora.scenes.captions import VOCABULARY, encode
from jaxpo.corpora.scenes.draw import draw
from jaxpo.corpora.scenes.scene import PLACES, render
from jaxpo.diffusion.segments import split_caption
from jaxpo.losses.info_nce import info_nce
from jaxpo.losses.longalign import segment_text, unit

HIDDEN, WIDTH = 64, 32
SEGMENTS, WORDS = len(PLACES) + 1, 5
"""Clauses of a caption, the background's among them, and words of a clause, its full stop among them, at most."""
EMPTY = 0.1
"""Share of captions that are left empty in training, which gives all texts a direction in common."""

Tower = dict[str, Any]


def clauses(captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Captions split at sentence marks: int32 words `[N, SEGMENTS, WORDS]`, bool `[N, SEGMENTS]` where a clause is.

    An empty caption is one empty clause.
    """
    split = [split_caption(caption) for caption in captions]
    padded = [part for parts in split for part in (*parts, *[""] * (SEGMENTS - len(parts)))]
    tokens, _ = encode(padded, WORDS)
    there = np.asarray([[k < len(parts) for k in range(SEGMENTS)] for parts in split])
    return tokens.reshape(len(captions), SEGMENTS, WORDS), there


def image_features(tower: Tower, images: Float[Array, "N H W 3"]) -> Float[Array, "N 32"]:
    """g: the direction of a picture, of its pixels through one hidden layer."""
    hidden = jax.nn.gelu(images.reshape(len(images), -1) @ tower["pixels"] + tower["pixels_bias"])
    return unit(hidden @ tower["picture"])


def text_features(tower: Tower, tokens: Int[Array, "N S L"], there: Bool[Array, "N S"]) -> Float[Array, "N 32"]:
    """t = mean_j unit(h(s_j)) over the clauses j of a caption; its length is less than 1 where clauses disagree."""
    words = jnp.where((tokens > 0)[..., None], tower["words"][tokens], 0.0)
    return segment_text(jax.nn.gelu(words.sum(-2) + tower["words_bias"]) @ tower["text"], there)


def initial(seed: int, size: int) -> Tower:
    """Towers before training."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> Array:
        return jnp.asarray(rng.standard_normal(shape) / np.sqrt(shape[0]), jnp.float32)

    return {
        "pixels": normal(size * size * 3, HIDDEN),
        "pixels_bias": jnp.zeros(HIDDEN),
        "picture": normal(HIDDEN, WIDTH),
        "words": normal(len(VOCABULARY), HIDDEN),
        "words_bias": jnp.zeros(HIDDEN),
        "text": normal(HIDDEN, WIDTH),
        "scale": jnp.asarray(np.log(10.0), jnp.float32),
    }


def contrast(tower: Tower, images: Array, tokens: Array, there: Array) -> Float[Array, ""]:
    """InfoNCE in both directions on pictures and their own captions."""
    scores = jnp.exp(tower["scale"]) * image_features(tower, images) @ text_features(tower, tokens, there).T
    everywhere, own = jnp.ones(scores.shape, bool), jnp.arange(len(scores))
    return jnp.mean(info_nce(scores, everywhere, own) + info_nce(scores.T, everywhere, own)) / 2


def train(seed: int = 0, *, steps: int = 1500, batch: int = 64, size: int = 8, count: int = 8192) -> Tower:
    """Towers trained on scenes of one to four things, some of their captions empty; seconds on a CPU."""
    scenes = draw(count, seed, things=(1, len(PLACES)))
    tokens, there = clauses(["" if k < EMPTY * count else scene.caption for k, scene in enumerate(scenes)])
    data = tuple(map(jnp.asarray, (render(scenes, size), tokens, there)))
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, steps))

    @partial(jax.jit, donate_argnums=0)
    def learn(tower: Tower, key: Array) -> Tower:
        def step(state: tuple[Tower, Any], key: Array) -> tuple[tuple[Tower, Any], None]:
            tower, moments = state
            rows = jax.random.randint(key, (batch,), 0, count)
            updates, moments = optimizer.update(jax.grad(contrast)(tower, *(x[rows] for x in data)), moments)
            return (optax.apply_updates(tower, updates), moments), None

        return jax.lax.scan(step, (tower, optimizer.init(tower)), jax.random.split(key, steps))[0][0]

    return learn(initial(seed, size), jax.random.key(seed))


def retrieval(tower: Tower, images: np.ndarray, captions: Sequence[str], among: int = 16) -> float:
    """Share of pictures that fit their own caption better than any of the `among - 1` captions after it."""
    tokens, there = clauses(captions)
    scores = np.asarray(image_features(tower, jnp.asarray(images)) @ text_features(tower, tokens, there).T)
    count = len(scores)
    others = (np.arange(count)[:, None] + np.arange(among)) % count
    return float(np.mean(np.argmax(np.take_along_axis(scores, others, axis=1), axis=1) == 0))
