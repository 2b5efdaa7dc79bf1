"""Captions as ids: whole, or in segments that a text tower reads each alone (LongAlign, arXiv 2410.11817)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from jaxpo.config import Data
from jaxpo.data.images.formats import Item
from jaxpo.data.tokenizer.tokenizer import Tokenizer
from jaxpo.diffusion.segments import split_caption

SEGMENTS = "segments"
"""What a model says of itself that was trained on captions in several segments: how many."""
CUT, DROPPED, UNKNOWN = "truncated_caption", "dropped_longer_than_max_length", "captions_with_unknown_words"


def encoded(
    item: Item, tokenizer: Tokenizer, data: Data, segments: int, counts: Counter[str]
) -> tuple[np.ndarray, ...] | None:
    """int32 ids of a caption's segments, at most `segments` of `data.max_length` tokens; None: it is left out.

    Raises:
      DataError: it is longer and `data.truncation` says that this is an error.
    """
    assert item.caption is not None
    parts = split_caption(item.caption) if segments > 1 else [item.caption]
    ids = [np.asarray(tokenizer.encode(part), np.int32) for part in parts]
    if any(map(unknown, ids)):
        counts[UNKNOWN] += 1
    longest = max(map(len, ids))
    if longest <= data.max_length and len(ids) <= segments:
        return tuple(ids)
    if data.truncation == "error":
        what = f"has a segment of {longest} tokens" if len(ids) > 1 else f"has {longest} tokens"
        more = f" in {len(ids)} segments" if len(ids) > segments else ""
        raise item.error(
            f"the caption {what}{more}, and the text tower reads {segments} of {data.max_length}.",
            remedy="Raise images.segments or data.max_length, or let data.truncation cut captions.",
        )
    counts[DROPPED if data.truncation == "drop" else CUT] += 1
    return None if data.truncation == "drop" else tuple(x[: data.max_length] for x in ids[:segments])


def unknown(ids: np.ndarray) -> bool:
    """Whether a word has no token of its own: it is read as 0, which fills captions up, as if it were not there."""
    return bool((ids == 0).any())


def filled(segments: Sequence[np.ndarray], count: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """int32 `[S, L]` filled up with 0, and where tokens are; the empty caption is a single 0."""
    tokens, mask = np.zeros((count, length), np.int32), np.zeros((count, length), bool)
    for i, ids in enumerate(segments):
        tokens[i, : len(ids)] = ids
        mask[i, : max(len(ids), 1)] = True
    return tokens, mask
