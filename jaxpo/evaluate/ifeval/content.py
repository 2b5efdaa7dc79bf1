"""What an answer says: keywords, language, length, placeholders, postscript, case. One pure function per kind.

Each is the published checker's reading of its instruction (Zhou et al. 2023, arXiv 2311.07911, table 4), coarse as it
may be, so that scores compare with published ones. Where ours differs, the docstring says "Differs".
"""

from __future__ import annotations

import re

from jaxpo.evaluate.ifeval.languages import is_language
from jaxpo.evaluate.ifeval.words import capital_words, count_words, sentences

RELATIONS = ("less than", "at least")


def compare(found: int, relation: str, bound: int) -> bool:
    """`found < bound` for "less than", `found >= bound` for "at least"."""
    return found < bound if relation == "less than" else found >= bound


def has_keywords(answer: str, *, keywords: tuple[str, ...]) -> bool:
    """Every keyword occurs, in any case, inside longer words too.

    Differs: a keyword is a text; lm-eval takes it for a regular expression, in which `C++` is any run of C and `*args`
    an error.
    """
    return all(re.search(re.escape(keyword), answer, re.IGNORECASE) for keyword in keywords)


def keyword_frequency(answer: str, *, keyword: str, frequency: int, relation: str) -> bool:
    """How often a keyword occurs, in any case, inside longer words too, without overlaps.

    Differs: a keyword is a text, as in `has_keywords`.
    """
    found = re.findall(re.escape(keyword.strip()), answer, re.IGNORECASE)
    return compare(len(found), relation, frequency)


def no_forbidden_words(answer: str, *, forbidden_words: tuple[str, ...]) -> bool:
    """None of the words occurs as a whole word, in any case.

    Differs: a word is a text, as in `has_keywords`, and may begin or end with a mark (`C++`).
    """
    return not any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", answer, re.IGNORECASE) for word in forbidden_words)


def letter_frequency(answer: str, *, letter: str, let_frequency: int, let_relation: str) -> bool:
    """How often a letter occurs, in any case.

    Differs: any character can be counted. For `#` and `!`, which two published prompts ask for, lm-eval counts a letter
    drawn at random.
    """
    return compare(answer.lower().count(letter.lower()), let_relation, let_frequency)


def response_language(answer: str, *, language: str) -> bool:
    """The whole answer is most likely in this language.

    Differs: draws are fixed (lm-eval's result varies from call to call); an answer without letters is in no language
    (lm-eval: in every one); `zh` is Chinese of either script (lm-eval: of none).
    """
    return is_language(answer, language)


def number_sentences(answer: str, *, num_sentences: int, relation: str) -> bool:
    """How many sentences there are.

    Differs: sentences are found by rules, see `words.sentences`, not by NLTK's trained punkt.
    """
    return compare(len(sentences(answer)), relation, num_sentences)


def number_words(answer: str, *, num_words: int, relation: str) -> bool:
    """How many runs of letters and digits there are."""
    return compare(count_words(answer), relation, num_words)


def number_paragraphs(answer: str, *, num_paragraphs: int) -> bool:
    """Exactly so many paragraphs between dividers `***`; none is empty, but for what a first or last divider leaves."""
    parts = [part.strip() for part in re.split(r"\s?\*\*\*\s?", answer)]
    # A single empty part is first and last at once, and taken away once.
    empty_ends = (not parts[0]) + (len(parts) > 1 and not parts[-1])
    return all(parts[1:-1]) and len(parts) - empty_ends == num_paragraphs


def nth_paragraph_first_word(answer: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Exactly so many paragraphs between empty lines, the n-th of which begins with a word, in any case.

    Empty paragraphs do not count, but take a place when the n-th is looked for. The word ends before the first of
    `. , ? ! ' "`; quotes before it are skipped.
    """
    parts = [part.strip() for part in answer.split("\n\n")]
    count = sum(map(bool, parts))
    if count != num_paragraphs or nth_paragraph > count or not parts[nth_paragraph - 1]:
        return False
    word = parts[nth_paragraph - 1].split()[0].lstrip("'").lstrip('"')
    return re.split(r"[.,?!'\"]", word)[0].lower() == first_word.lower()


def number_placeholders(answer: str, *, num_placeholders: int) -> bool:
    """At least so many `[...]`, each within a line."""
    return len(re.findall(r"\[.*?\]", answer)) >= num_placeholders


def has_postscript(answer: str, *, postscript_marker: str) -> bool:
    """The marker occurs, in any case; `P.S.` and `P.P.S` with spaces between their letters too.

    Differs: another marker is a text; lm-eval takes it for a regular expression.
    """
    marker = postscript_marker.strip().lower()
    spaced = {"p.s.": r"p\.\s?s\.", "p.p.s": r"p\.\s?p\.\s?s"}
    return re.search(spaced.get(marker, re.escape(marker)), answer.lower()) is not None


def capital_word_frequency(answer: str, *, capital_frequency: int, capital_relation: str) -> bool:
    """How many words are in capitals.

    Differs: words are found by rules, see `words.capital_words`, not by NLTK's tokenizer, which makes two of `DON'T`
    and one of `AND/OR`.
    """
    return compare(len(capital_words(answer)), capital_relation, capital_frequency)


def english_capital(answer: str) -> bool:
    """English, with no small letter and at least one capital. Differs: as `response_language`."""
    return answer.isupper() and is_language(answer, "en")


def english_lowercase(answer: str) -> bool:
    """English, with no capital and at least one small letter. Differs: as `response_language`."""
    return answer.islower() and is_language(answer, "en")
