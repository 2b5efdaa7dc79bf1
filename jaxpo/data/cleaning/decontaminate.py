"""Removing training rows that share a run of words with a benchmark."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from jaxpo.data.cleaning.overlap import ngrams, text_of, words
from jaxpo.data.rows.formats import Row
from jaxpo.errors import ConfigError, DataError


@dataclass(frozen=True)
class Decontaminate:
    """What counts as contaminated.

    Attributes:
      ngram: words in a row that must agree; benchmark rows with fewer words must occur whole.
      min_words: benchmark rows with fewer words than this are not looked for: they occur everywhere.
      threshold: share of a row's n-grams that may be a benchmark's; 0 removes a row that has any.
      columns, against_columns: texts that are compared; () = those that training reads.
    """

    ngram: int = 13
    min_words: int = 8
    threshold: float = 0.0
    columns: tuple[str, ...] = ()
    against_columns: tuple[str, ...] = ()

    def check(self) -> None:
        """ConfigError with every value out of range."""
        problems = []
        if self.ngram < 1:
            problems.append(f"--ngram {self.ngram} must be at least 1.")
        if not 1 <= self.min_words <= self.ngram:
            problems.append(f"--min-words {self.min_words} must lie in 1 .. --ngram {self.ngram}.")
        if not 0 <= self.threshold < 1:
            problems.append(f"--threshold {self.threshold:g} must lie in [0, 1); it is a share of a row's n-grams.")
        if problems:
            raise ConfigError(problems)


@dataclass(frozen=True)
class Contamination:
    """Why a row is left out.

    Attributes:
      by: the benchmark row that shares most of its n-grams.
      words: the first run of words that they share.
      share: of the row's n-grams, those that stand in any benchmark row.
    """

    by: tuple[str, int]
    words: str
    share: float

    def record(self, row: Row) -> dict[str, Any]:
        """A line of the report."""
        by = {"file": self.by[0], "row": self.by[1]}
        return {
            "file": str(row.file),
            "row": row.number,
            "contaminated_by": by,
            "words": self.words,
            "share": round(self.share, 4),
        }


class Benchmarks:
    """The n-grams of all benchmark rows.

    Attributes:
      counts: "rows" looked for, "rows_too_short" that are not.
    """

    def __init__(self, rows: Iterable[Row], settings: Decontaminate):
        settings.check()
        self.settings = settings
        self.counts: Counter[str] = Counter(rows=0, rows_too_short=0)
        self.places: list[tuple[str, int]] = []
        self.owner: dict[int, dict[int, int]] = {}
        for row in rows:
            self._add(row)
        if not self.counts["rows"]:
            raise DataError(
                f"all {self.counts['rows_too_short']} benchmark rows have fewer than {settings.min_words} words.",
                remedy="Lower --min-words, or name other --against-columns.",
            )

    def _add(self, row: Row) -> None:
        found = words(text_of(row, self.settings.against_columns))
        if len(found) < self.settings.min_words:
            self.counts["rows_too_short"] += 1
            return
        self.counts["rows"] += 1
        n = min(self.settings.ngram, len(found))
        known = self.owner.setdefault(n, {})
        for gram in ngrams(found, n).tolist():
            known.setdefault(gram, len(self.places))
        self.places.append((str(row.file), row.number))

    def look_up(self, row: Row) -> Contamination | None:
        """What a row shares with the benchmarks, if that is more than the threshold."""
        found = words(text_of(row, self.settings.columns))
        hits: Counter[int] = Counter()
        first: tuple[int, int] | None = None
        share = 0.0
        for n, known in sorted(self.owner.items(), reverse=True):
            grams = ngrams(found, n).tolist()
            at = [i for i, gram in enumerate(grams) if gram in known]
            if not at:
                continue
            share = max(share, len(at) / len(grams))
            hits.update(known[grams[i]] for i in at)
            first = first or (at[0], n)
        if first is None or share <= self.settings.threshold:
            return None
        most = max(hits.values())
        owner = min(i for i, count in hits.items() if count == most)
        return Contamination(self.places[owner], " ".join(found[first[0] : first[0] + first[1]]), share)


def find_contaminated(rows: Iterable[Row], benchmarks: Benchmarks) -> Iterator[tuple[Row, Contamination | None]]:
    """Every row with what it shares with a benchmark, or None.

    Words are compared after NFKC and case folding, punctuation and white space aside
    (`jaxpo.data.cleaning.overlap.words`).

    Reference:
      Brown et al. 2020, arXiv 2005.14165, appendix C (13-grams of words).
    """
    for row in rows:
        yield row, benchmarks.look_up(row)
