"""How much two texts share, word by word."""

from __future__ import annotations

import re
from collections import Counter

_WORD = re.compile(r"\w+|[^\w\s]")


def word_overlap(text: str, reference: str) -> float:
    """F1 of the bags of words and marks, in [0, 1]: 1 for any order of the same words, 0 where either has none."""
    ours, theirs = (Counter(_WORD.findall(x.lower())) for x in (text, reference))
    shared = sum((ours & theirs).values())
    return 2.0 * shared / (sum(ours.values()) + sum(theirs.values())) if shared else 0.0
