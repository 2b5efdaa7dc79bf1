"""Captions longer than a text encoder takes, encoded sentence by sentence (LongAlign, arXiv:2410.11817)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

MARKS = re.compile(r"(?<=[.!?;])\s+")
"""The blank after a mark. The released pattern's quotes are misplaced, so that "!" and ";" alone do not split there."""


class Marks(NamedTuple):
    """Ids of an encoder's own tokens."""

    start: int
    end: int
    pad: int


def split_caption(caption: str) -> list[str]:
    """The caption's sentences, each with its mark; an empty caption is one empty segment."""
    found = [part.strip() for part in MARKS.split(caption)]
    return [part for part in found if part] or [""]


def kept_tokens(ids: Int[Array, "... L"], marks: Marks) -> Bool[Array, "... L"]:
    """The positions of a segment that are kept: start and words, not end and padding; none of an empty segment.

    Args:
      ids: `[..., L]`, each segment encoded alone. `marks.pad` may be `marks.end`, as CLIP's is.
    """
    word = (ids != marks.start) & (ids != marks.end) & (ids != marks.pad)
    return (word | (ids == marks.start)) & jnp.any(word, axis=-1, keepdims=True)


def join_segments(
    states: Float[Array, "B S L D"], kept: Bool[Array, "B S L"], fill: Float[Array, "D"], *, length: int = 240
) -> tuple[Float[Array, "B length D"], Int[Array, "B"], Int[Array, "B"]]:
    """The kept states of a caption's segments, one after another, up to a length that all captions have.

    Args:
      states: `[B, S, L, D]` of the encoder, whose rows are segments encoded alone.
      kept: `[B, S, L]` of `kept_tokens`, False for segments that a caption does not have.
      fill: `[D]` of `fill_vector`, what stands after the last kept state.
      length: positions in all.

    Returns:
      `[B, length, D]` states; `[B]` how many of them are the caption's; `[B]` how many more it had and lost.

    Reference: Liu et al. 2025, arXiv:2410.11817, section 3.1; the authors' code, tools.py.
    """
    b, d = states.shape[0], states.shape[-1]
    flat, here = states.reshape(b, -1, d), kept.reshape(b, -1)
    place = jnp.where(here, jnp.cumsum(here, axis=-1) - 1, length)
    place = jnp.where(place < length, place, length)  # beyond the end: written into a row that is cut off
    out = jnp.broadcast_to(fill, (b, length + 1, d)).astype(flat.dtype)
    out = out.at[jnp.arange(b)[:, None], place].set(flat)[:, :length]
    total = jnp.sum(here, axis=-1)
    return out, jnp.minimum(total, length), jnp.maximum(total - length, 0)


def fill_vector(states: Float[Array, "L D"], *, last: int = 60) -> Float[Array, "D"]:
    """The mean of the last positions of the empty caption's encoding.

    Reference: Liu et al. 2025, arXiv:2410.11817, the authors' code, tools.py.
    """
    return jnp.mean(states[-last:], axis=0)


def long_states(
    captions: Sequence[str],
    encode: Callable[[list[str]], tuple[np.ndarray, np.ndarray]],
    marks: Marks,
    *,
    length: int = 240,
) -> tuple[Float[np.ndarray, "B length D"], int]:
    """The states of captions of any length, by an encoder that takes short texts.

    Args:
      encode: texts -> ids `[N, L]` and states `[N, L, D]`; it is asked for all segments and for the empty text at once.

    Returns:
      The states, and how many captions were longer still and have lost their ends.
    """
    parts = [split_caption(caption) for caption in captions]
    most = max(len(own) for own in parts)
    ids, states = encode([text for own in parts for text in (*own, *[""] * (most - len(own)))] + [""])
    kept = kept_tokens(jnp.asarray(ids[:-1]), marks).reshape(len(parts), most, -1)
    shaped = jnp.asarray(states[:-1]).reshape(len(parts), most, *states.shape[1:])
    joined, _, lost = join_segments(shaped, kept, fill_vector(jnp.asarray(states[-1])), length=length)
    return np.asarray(joined), int(jnp.sum(lost > 0))
