"""BM25, through bm25s: what a retriever is measured beside, and where hard negatives come from."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxpo.errors import ConfigError

_WORD = re.compile(r"\w+")
INSTALL = "pip install bm25s"


def words(text: str) -> list[str]:
    """Lower-case words."""
    return _WORD.findall(text.lower())


class BM25:
    """Okapi BM25 in Lucene's form, k1 = 1.5, b = 0.75 (Robertson and Zaragoza 2009)."""

    def __init__(self, documents: Sequence[str]):
        library = _library()
        self._count = len(documents)
        self._inner = library.BM25()
        self._inner.index([words(text) or [""] for text in documents], show_progress=False)

    def scores(self, query: str) -> np.ndarray:
        """Of every document, float32 `[N]`."""
        known = [word for word in words(query) if word in self._inner.vocab_dict]
        return np.asarray(self._inner.get_scores(known), np.float32) if known else np.zeros(self._count, np.float32)

    def top(self, query: str, n: int) -> np.ndarray:
        """Places of the best n documents, best first."""
        return np.argsort(-self.scores(query), kind="stable")[:n]


def is_installed() -> bool:
    """Whether there is a bm25s."""
    return importlib.util.find_spec("bm25s") is not None


def _library() -> Any:
    try:
        found = importlib.import_module("bm25s")
    except ImportError as error:
        raise ConfigError(f"BM25 needs bm25s: {INSTALL}.") from error
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # on import it asks for everything to be told
    return found
