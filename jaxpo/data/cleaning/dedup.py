"""Removing rows whose text stood before: exactly, or nearly by the Jaccard similarity of their word n-grams."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxpo.data.cleaning.overlap import ngrams, squeezed, text_of, words
from jaxpo.data.rows.formats import Row
from jaxpo.errors import ConfigError


@dataclass(frozen=True)
class Dedup:
    """What counts as a duplicate.

    Attributes:
      near: also remove near duplicates.
      threshold: smallest Jaccard similarity |A and B| / |A or B| of the two rows' sets of n-grams.
      ngram: words per n-gram; a row with fewer words is one n-gram.
      num_perm: hash functions of the MinHash signatures by which similar rows find each other.
      columns: texts that are compared; () = those that training reads.
    """

    near: bool = True
    threshold: float = 0.8
    ngram: int = 5
    num_perm: int = 128
    columns: tuple[str, ...] = ()

    def check(self) -> None:
        """ConfigError with every value out of range."""
        problems = []
        if not 0 < self.threshold <= 1:
            problems.append(f"--threshold {self.threshold:g} must lie in (0, 1]; it is a Jaccard similarity.")
        if self.ngram < 1:
            problems.append(f"--ngram {self.ngram} must be at least 1.")
        if not 16 <= self.num_perm <= 4096:
            problems.append(f"--num-perm {self.num_perm} must lie in 16 .. 4096; 128 is usual.")
        if problems:
            raise ConfigError(problems)


@dataclass(frozen=True)
class Duplicate:
    """Why a row is left out.

    Attributes:
      of: the earlier row, which is kept.
      kind: "exact" or "near".
      similarity: Jaccard similarity of the sets of n-grams; 1 for exact ones.
    """

    of: tuple[str, int]
    kind: str
    similarity: float

    def record(self, row: Row) -> dict[str, Any]:
        """A line of the report."""
        of = {"file": self.of[0], "row": self.of[1]}
        similarity = round(self.similarity, 4)
        return {
            "file": str(row.file),
            "row": row.number,
            "duplicate_of": of,
            "kind": self.kind,
            "similarity": similarity,
        }


def find_duplicates(rows: Iterable[Row], settings: Dedup) -> Iterator[tuple[Row, Duplicate | None]]:
    """Every row with the earlier row that it repeats, or None; the first of its like is kept.

    Exactly equal: the same text but for white space. Nearly equal: candidates share a band of their MinHash signatures
    (Broder 1997; locality-sensitive hashing as in Leskovec et al., Mining of Massive Datasets, 3.4), and the similarity
    itself is then computed from the n-grams, so that nothing is removed on an estimate. Rows are compared with kept
    rows alone: what resembles only a removed row stays.

    Raises:
      ConfigError: settings out of range.
      DataError: a row without the columns.
    """
    settings.check()
    seen: dict[bytes, tuple[str, int]] = {}
    near = _Near(settings) if settings.near else None
    for row in rows:
        text, place = text_of(row, settings.columns), (str(row.file), row.number)
        digest = hashlib.sha256(squeezed(text).encode("utf-8", "surrogatepass")).digest()
        if digest in seen:
            yield row, Duplicate(seen[digest], "exact", 1.0)
            continue
        found = None if near is None else near.add(text, place)
        # A near duplicate's own copies are exact duplicates of what it repeats, not of a row that was left out.
        if found is None:
            seen[digest] = place
        yield row, found


class _Near:
    """The kept rows' n-grams and signatures."""

    def __init__(self, settings: Dedup):
        from datasketch import MinHash, MinHashLSH

        self.settings, self.minhash = settings, MinHash
        # Missed pairs cost more than candidates that the exact similarity then refuses.
        self.index = MinHashLSH(threshold=settings.threshold, num_perm=settings.num_perm, weights=(0.1, 0.9))
        self.kept: list[tuple[np.ndarray, tuple[str, int]]] = []

    def add(self, text: str, place: tuple[str, int]) -> Duplicate | None:
        """The most similar kept row, the earliest of several; without one the row is kept."""
        found = words(text)
        grams = np.unique(ngrams(found, min(self.settings.ngram, max(len(found), 1))))
        if not grams.size:
            return None
        signature = self.minhash(num_perm=self.settings.num_perm, seed=1, hashfunc=int)
        signature.update_batch(grams & np.uint64(0xFFFFFFFF))
        best: tuple[float, int] | None = None
        for number in sorted(self.index.query(signature)):
            similarity = _jaccard(grams, self.kept[number][0])
            if similarity >= self.settings.threshold and (best is None or similarity > best[0]):
                best = (similarity, number)
        if best is not None:
            return Duplicate(self.kept[best[1]][1], "near", best[0])
        self.index.insert(len(self.kept), signature)
        self.kept.append((grams, place))
        return None


def _jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """|A and B| / |A or B| of two sorted sets."""
    both = np.intersect1d(a, b, assume_unique=True).size
    return both / (a.size + b.size - both)
