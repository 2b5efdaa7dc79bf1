"""What two texts share: words, n-grams of words as 64-bit numbers, and which texts of a row are compared."""

from __future__ import annotations

import functools
import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.rows import canonical
from jaxpo.data.tokens.texts import TEXT_COLUMNS

# Scripts written without spaces between words: Thai to Lao, Burmese, Khmer, kana, Han. One character counts as a word.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])\w)+")
_SPACE = re.compile(r"\s+")


def words(text: str) -> list[str]:
    """Letters and digits between anything else, after NFKC and case folding; unspaced scripts by the character.

    Vowel signs are no letters: they divide the words of Indic scripts, in both of the texts that are compared.
    """
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def squeezed(text: str) -> str:
    """NFC, with every run of white space as one space: what "exactly equal" means."""
    return _SPACE.sub(" ", unicodedata.normalize("NFC", text)).strip()


def text_of(row: Row, columns: Sequence[str] = ()) -> str:
    """The texts of a row that are compared, one after another.

    Args:
      columns: by name; () = those that training reads.

    Raises:
      DataError: a named column is missing, or there is none to compare; lists what there is.
    """
    data = row.data if columns else canonical(row).data
    present = [name for name in columns or TEXT_COLUMNS if name in data]
    missing = [name for name in columns if name not in data]
    if missing or not present:
        wanted = f"no column {', '.join(missing)}" if missing else "no column of text that training reads"
        raise row.error(
            f"there is {wanted}; there are {', '.join(row.data) or 'none'}.",
            remedy="Name columns that every row has with --columns (--against-columns for benchmarks).",
        )
    return "\n".join(string for name in present for string in _strings(data[name]))


def _strings(value: Any) -> Iterator[str]:
    """Every string in a value; of messages, the contents."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _strings(value.get("content", value.get("value", list(value.values()))))
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def ngrams(texts: Sequence[str], n: int) -> np.ndarray:
    """A 64-bit number for each run of n words, `[len - n + 1]` uint64; empty when there are fewer than n words.

        h_i = mix(sum_j c_j w_{i+j}) mod 2^64,   w: 64-bit hash of a word, c_j odd constants

    Equal runs give equal numbers on every machine; distinct ones collide with probability 2^-64 or so.
    """
    if len(texts) < n:
        return np.zeros(0, np.uint64)
    hashes = np.fromiter(map(_word_hash, texts), np.uint64, len(texts))
    windows = np.lib.stride_tricks.sliding_window_view(hashes, n)
    return _mix((windows * _constants(n)).sum(axis=1, dtype=np.uint64))


@functools.lru_cache(maxsize=1 << 20)
def _word_hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


@functools.cache
def _constants(n: int) -> np.ndarray:
    return np.asarray([_word_hash(f"\0position {j}") | 1 for j in range(n)], np.uint64)


def _mix(x: np.ndarray) -> np.ndarray:
    """Spread every bit over all others (the finaliser of splitmix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
