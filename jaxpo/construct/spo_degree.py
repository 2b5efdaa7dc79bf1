"""SPO-degree's key phrases: RAKE over both responses of a pair."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxpo.construct.base import Construction, Tools
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.rows import PAIRS, detect, read_record
from jaxpo.data.rows.segments import marked_text

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")

_FUNCTION_WORDS = """
    a about above across actually after again against ago all almost along already also although always am among an and
    another any anybody anyone anything are aren't around as at away back be became because become becomes been before
    behind being below between both but by came can can't cannot certain come could couldn't did didn't do does doesn't
    doing don't done down during each either else enough etc even ever every everybody everyone everything far few for
    from further gave get gets getting give given gives go goes going gone got had hadn't has hasn't have haven't having
    he he'd he'll he's hence her here here's hers herself him himself his how how's however i i'd i'll i'm i've if in
    indeed instead into is isn't it it'd it'll it's its itself just keep kept kind know known last least less let let's
    like likely made make makes making many may maybe me might mine more most much must my myself near nearly neither
    never no nobody none nor not nothing now of off often oh ok okay on once one ones only onto or other others our ours
    ourselves out over own per perhaps please put quite rather really s said same say says see seem seemed seems several
    shall she she'd she'll she's should shouldn't since so some somebody someone something sometimes still such sure t
    take taken takes than thank thanks that that's the their theirs them themselves then there there's therefore these
    they they'd they'll they're they've thing things think this those though through thus till to together too toward
    towards under unless until up upon us use used uses using usually very via want wants was wasn't way ways we we'd
    we'll we're we've well went were weren't what what's whatever when where where's whether which while who who's whole
    whom whose why will with within without won't would wouldn't yes yet you you'd you'll you're you've your yours
    yourself yourselves
"""

STOP_WORDS = frozenset(_FUNCTION_WORDS.split())
"""English function words and fillers; they separate candidate phrases."""


class Phrase(NamedTuple):
    """One occurrence of a key phrase: characters `start` to `end` (exclusive), and its RAKE score."""

    start: int
    end: int
    score: float


def candidates(text: str, stop_words: frozenset[str] = STOP_WORDS) -> list[list[tuple[str, int, int]]]:
    """Runs of words between stop words and punctuation, each word as (lower-case word, start, end)."""
    runs: list[list[tuple[str, int, int]]] = []
    end_of_run = -1
    for match in _WORD.finditer(text):
        word, start, end = match.group().lower().replace("’", "'"), *match.span()
        if word in stop_words:
            end_of_run = -1
            continue
        if end_of_run >= 0 and text[end_of_run:start].isspace():
            runs[-1].append((word, start, end))
        else:
            runs.append([(word, start, end)])
        end_of_run = end
    return runs


def rake(text: str, stop_words: frozenset[str] = STOP_WORDS) -> list[Phrase]:
    """Key phrases by descending score; equal scores in the order of the phrases' first occurrence.

        word score = degree / frequency,    phrase score = sum of its words' scores

    The degree of a word is the summed length of the candidate phrases that contain it, counted per occurrence. Every
    occurrence of a phrase is listed, one after another.
    """
    runs = candidates(text, stop_words)
    frequency: defaultdict[str, int] = defaultdict(int)
    degree: defaultdict[str, int] = defaultdict(int)
    for run in runs:
        for word, _, _ in run:
            frequency[word] += 1
            degree[word] += len(run)
    first: dict[tuple[str, ...], int] = {}
    for run in runs:
        first.setdefault(tuple(word for word, _, _ in run), run[0][1])
    found = []
    for run in runs:
        words = tuple(word for word, _, _ in run)
        score = sum(degree[word] / frequency[word] for word in words)
        found.append((-score, first[words], Phrase(run[0][1], run[-1][2], score)))
    return [phrase for *_, phrase in sorted(found)]


@dataclass(frozen=True)
class SPODegree(Construction):
    """Mark the key phrases of both answers by RAKE, the highest-scoring first.

    Attributes:
      most: keep at most this many phrases per answer; 0 keeps all.
      more_stop_words: further words that separate phrases, lower case.
    """

    most: int = 0
    more_stop_words: tuple[str, ...] = ()

    NAME = "spo_degree"
    READS = "pairs in English"
    WRITES = "the same rows with the columns `chosen_keywords` and `rejected_keywords`"

    def problems(self) -> list[str]:
        return [f"--most is {self.most} but must be at least 0."] if self.most < 0 else []

    def construct(self, rows: Sequence[Row], tools: Tools) -> Iterator[dict[str, Any]]:
        stop_words = STOP_WORDS | {word.lower() for word in self.more_stop_words}
        for row in rows:
            kind = detect(row)
            if kind not in PAIRS:
                raise row.error(f"type {kind!r} holds no pair.", remedy="Give rows with chosen and rejected.")
            columns = {}
            for side in read_record(row, kind).sides[:2]:
                text, given = marked_text(row, side, side.role), row.data[side.role]
                shift = len(given) - len(text) if isinstance(given, str) else 0
                phrases = rake(text, stop_words)[: self.most or None]
                tools.count("key_phrases", len(phrases))
                tools.count("answers_without_key_phrase", not phrases)
                columns[f"{side.role}_keywords"] = [[p.start + shift, p.end + shift] for p in phrases]
            yield {**row.data, **columns}
