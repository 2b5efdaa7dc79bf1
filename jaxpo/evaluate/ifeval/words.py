"""Words, sentences and words in capitals of an answer, counted without data files.

lm-eval counts sentences and capital words with NLTK's punkt, whose trained parameters have to be downloaded; here rules
stand in for them. docs/evaluation.md has the differences and how often they matter.
"""

from __future__ import annotations

import re

_WORD = re.compile(r"\w+")
# A hyphen, apostrophe or full stop between two of its characters is part of a word.
_WHOLE_WORD = re.compile(r"\w+(?:[-‐‑'’.]\w+)*")

# What ends a sentence, with the quotes, brackets and Markdown marks that close after it. A full stop of the Latin
# script needs a space behind it (3.14, example.com), one of the others does not.
_END = re.compile(r"(?:[.!?…؟۔]+[\"'”’»)\]*_`]*(?=\s|$)|[。！？｡।॥]+[\"'”’»)\]*_`」』]*)")
_LAST = re.compile(r"[\"'“‘«(\[*_`]*([^\s\"“‘«(\[*_`]+)$")
_NEXT = re.compile(r"[\s\"'“‘«(\[*_`#>-]*(\S*)")
_MARKS = " \t#>*-_"
_NUMERAL = re.compile(r"(?:\d{1,3}|[ivxlIVXL]{1,4}|[a-zA-Z])")


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Before a name: the full stop after these ends nothing.
_TITLES = _set(
    "mr mrs ms messrs mme mlle dr prof st gen col lt sgt capt cpt cmdr adm maj rep sen gov rev hon pres supt insp "
    "vs e.g i.e cf viz approx"
)
# Before a number.
_NUMBERED = _set("no nos fig figs vol vols p pp ch sec eq art jan feb mar apr jun jul aug sep sept oct nov dec")
# These end a sentence when a capital follows.
_CLOSING = _set("etc a.m p.m al")
# These, initials (J. Smith) and acronyms with full stops (U.S.) when a word follows that opens sentences.
_OPEN = _set("inc ltd co corp llc jr sr bros dept est ave blvd rd ph.d")
_ACRONYM = re.compile(r"[A-Z]|(?:[A-Za-z]\.)+[A-Za-z]")
_OPENERS = _set(
    "a all also although an and another any as at because both but by each even every finally first for from he "
    "her here his how however i if in instead it its let many meanwhile more most my next no now of on once one or "
    "other our overall she since so some such that the their then there therefore these they this those though thus "
    "to today two we what when where whether which while who why with yes yet you your"
)


def count_words(text: str) -> int:
    """Maximal runs of letters, digits and underscores: `don't` and `well-known` are two words each, as in lm-eval."""
    return len(_WORD.findall(text))


def sentences(text: str) -> list[str]:
    """The sentences of a text; a line break alone ends none.

    A sentence ends after `.`, `!`, `?` or their like in other scripts, unless the full stop belongs to an abbreviation,
    an initial, an acronym or the numeral of a list (`1. `). What holds no letter and no digit is no sentence.
    """
    found, start = [], 0
    for end in _END.finditer(text):
        if not _ends_none(text[start : end.start()], end.group(), text[end.end() :][:80]):
            found.append(text[start : end.end()].strip())
            start = end.end()
    return [sentence for sentence in [*found, text[start:].strip()] if _WORD.search(sentence)]


def capital_words(text: str) -> list[str]:
    """Words whose letters are all capitals, `A`, `U.S`, `COVID-19` and `DON'T` one each, and `NASA` of `NASA's`."""
    words = (word.removesuffix("'s").removesuffix("’s") for word in _WHOLE_WORD.findall(text))
    return [word for word in words if word.isupper()]


def _ends_none(before: str, end: str, after: str) -> bool:
    """Whether a mark ends no sentence: dots in the middle of one, or a full stop that belongs to the word before it."""
    following = _NEXT.match(after)
    follows = following.group(1) if following else ""
    last = _LAST.search(before)
    if not follows:
        return False
    if end.startswith(("..", "…")):
        return follows[0].islower()
    return end == "." and last is not None and _abbreviates(before[: last.start()], last.group(1), after[:1], follows)


def _abbreviates(before: str, word: str, space: str, follows: str) -> bool:
    """Whether the full stop after a word marks an abbreviation, or a numeral at the start of its line."""
    if _NUMERAL.fullmatch(word) and not before.rpartition("\n")[2].strip(_MARKS) and space != "\n":
        return True
    lowered = word.lower()
    if lowered in _TITLES:
        return True
    if lowered in _NUMBERED and follows[0].isdigit():
        return True
    if lowered in _CLOSING:
        return not follows[0].isupper()
    if lowered in _OPEN or _ACRONYM.fullmatch(word):
        opens = follows[0].isupper() and _WORD.findall(follows)[0].lower() in _OPENERS
        return not opens or follows[1:2] == "."
    return False
