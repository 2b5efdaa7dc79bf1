"""Texts of any length to ids, in memory that does not grow with them: long ones are encoded piece by piece.

A byte-level BPE encodes the matches of its split pattern one by one, so a text may be cut wherever one of them ends
whatever stands around it. LFM2's pattern has such places, and no look-behind through which the second piece could miss
the first:

- before a space that follows anything but white space: no match goes on from a character into a space;
- behind a letter or digit, before ASCII that is neither, or punctuation of Chinese and Japanese; and between a letter
  and a digit: a match that holds letters holds nothing behind them, and one that holds digits nothing else.

A piece then ends in what is no white space, so that the look-ahead of `\\s+(?!\\S)` sees there what it saw before.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import tokenizers
from tokenizers import models

PIECE = 1 << 14
"""Characters after which a text is cut at the next place."""
TOGETHER = 1 << 18
"""Characters that are encoded by one call: an encoding takes some hundred bytes per token until its ids are copied."""
_WORD = "0-9A-Za-z\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fa5\uac00-\ud7a3"
_OTHER = "\\x00-/:-@\\[-`{-\x7f\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f"
SPACES = re.compile(r"(?<=\S)(?= )")
ALL = re.compile(rf"{SPACES.pattern}|(?<=[{_WORD}])(?=[{_OTHER}])|(?<=[A-Za-z])(?=[0-9])|(?<=[0-9])(?=[A-Za-z])")


def encode_texts(inner: tokenizers.Tokenizer, texts: Sequence[str], places: re.Pattern[str] | None) -> list[np.ndarray]:
    """The ids of every text, int32, as the tokenizer gives them for the whole text.

    Args:
      places: where long texts may be cut, as `places_of` the tokenizer; None = nowhere.
    """
    # Memory that grows in place: a concatenation of the pieces' ids would hold all of them twice.
    whole = [array("i") for _ in texts]
    for group in _groups((i, piece) for i, text in enumerate(texts) for piece in pieces_of(text, places)):
        encoded = inner.encode_batch_fast([piece for _, piece in group], add_special_tokens=False)
        for (i, _), encoding in zip(group, encoded, strict=True):
            whole[i].extend(encoding.ids)
    return [np.frombuffer(ids, np.int32) if ids else np.zeros(0, np.int32) for ids in whole]


def pieces_of(text: str, places: re.Pattern[str] | None, size: int | None = None) -> Iterator[str]:
    """The text in pieces of about `size` characters (`PIECE`), longer where there is no place to cut it."""
    size = size or PIECE
    start = 0
    while places and len(text) - start > 2 * size and (place := places.search(text, start + size)):
        yield text[start : place.start()]
        start = place.start()
    yield text[start:] if start else text


def places_of(inner: tokenizers.Tokenizer, pattern: str) -> re.Pattern[str] | None:
    """Where texts may be cut for a tokenizer: None where this module's reasons do not hold for it.

    Args:
      pattern: LFM2's; any other split, and whatever else comes before the merges, rules out cuts.
    """
    added = [token for token in inner.get_added_tokens_decoder().values() if not token.special]
    plain = isinstance(inner.model, models.BPE) and inner.model.dropout is None and inner.normalizer is None
    if not plain or inner.pre_tokenizer is None or _splits(inner) != _lfm2(pattern):
        return None
    if any(token.lstrip or token.rstrip or token.single_word for token in added):
        return None
    # Added tokens that are not special are found in texts before the split, and must not be cut.
    return next((places for places in (ALL, SPACES) if not any(places.search(token.content) for token in added)), None)


def _splits(inner: tokenizers.Tokenizer) -> list[dict[str, object]]:
    """The steps before the merges, without those of their settings that ids do not depend on."""
    state = json.loads(inner.pre_tokenizer.__getstate__())
    steps = state.get("pretokenizers", [state])
    return [{name: value for name, value in step.items() if name != "trim_offsets"} for step in steps]


def _lfm2(pattern: str) -> list[dict[str, object]]:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return [split, {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}]


def _groups(pieces: Iterable[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    """Consecutive pieces of `TOGETHER` characters in all, or a longer one by itself."""
    group: list[tuple[int, str]] = []
    size = 0
    for number, piece in pieces:
        if group and size + len(piece) > TOGETHER:
            yield group
            group, size = [], 0
        group.append((number, piece))
        size += len(piece)
    if group:
        yield group
