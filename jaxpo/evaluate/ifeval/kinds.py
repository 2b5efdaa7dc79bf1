"""The 25 kinds of instruction: id -> what checks it and the arguments it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxpo.evaluate.ifeval import content, form
from jaxpo.evaluate.ifeval.languages import known_languages

Read = Callable[[Any], Any]
"""A value of the file -> the argument; ValueError says what it must be."""


@dataclass(frozen=True)
class Kind:
    """One kind of instruction.

    Attributes:
      check: `check(answer, **arguments)`, whether the answer follows.
      arguments: name -> how its value is read; all are required.
    """

    check: Callable[..., bool]
    arguments: Mapping[str, Read] = field(default_factory=dict)


def number(value: Any) -> int:
    """A whole number, 0 or more; 3.0 counts as one."""
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole or value < 0:
        raise ValueError("must be a whole number, 0 or more")
    return int(value)


def position(value: Any) -> int:
    """A whole number, 1 or more."""
    if number(value) < 1:
        raise ValueError("must be 1 or more")
    return int(value)


def text(value: Any) -> str:
    """A text that is not blank."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be a text that is not blank")
    return value


def texts(value: Any) -> tuple[str, ...]:
    """A list of such texts."""
    if not isinstance(value, list) or not value:
        raise ValueError("must be a list of texts")
    return tuple(text(item) for item in value)


def relation(value: Any) -> str:
    """One of `RELATIONS`."""
    if value not in content.RELATIONS:
        raise ValueError(f"must be one of {', '.join(map(repr, content.RELATIONS))}")
    return str(value)


def character(value: Any) -> str:
    """One character."""
    if len(text(value).strip()) != 1:
        raise ValueError("must be one character")
    return str(value).strip()


def language(value: Any) -> str:
    """A code that the detector knows."""
    if value not in (known := known_languages()):
        raise ValueError(f"must be one of {', '.join(known)}")
    return str(value)


KINDS: Mapping[str, Kind] = {
    "keywords:existence": Kind(content.has_keywords, {"keywords": texts}),
    "keywords:frequency": Kind(content.keyword_frequency, {"keyword": text, "frequency": number, "relation": relation}),
    "keywords:forbidden_words": Kind(content.no_forbidden_words, {"forbidden_words": texts}),
    "keywords:letter_frequency": Kind(
        content.letter_frequency, {"letter": character, "let_frequency": number, "let_relation": relation}
    ),
    "language:response_language": Kind(content.response_language, {"language": language}),
    "length_constraints:number_sentences": Kind(
        content.number_sentences, {"num_sentences": number, "relation": relation}
    ),
    "length_constraints:number_paragraphs": Kind(content.number_paragraphs, {"num_paragraphs": number}),
    "length_constraints:number_words": Kind(content.number_words, {"num_words": number, "relation": relation}),
    "length_constraints:nth_paragraph_first_word": Kind(
        content.nth_paragraph_first_word,
        {"num_paragraphs": number, "nth_paragraph": position, "first_word": text},
    ),
    "detectable_content:number_placeholders": Kind(content.number_placeholders, {"num_placeholders": number}),
    "detectable_content:postscript": Kind(content.has_postscript, {"postscript_marker": text}),
    "detectable_format:number_bullet_lists": Kind(form.number_bullet_lists, {"num_bullets": number}),
    "detectable_format:constrained_response": Kind(form.constrained_response),
    "detectable_format:number_highlighted_sections": Kind(form.number_highlighted_sections, {"num_highlights": number}),
    "detectable_format:multiple_sections": Kind(
        form.multiple_sections, {"section_spliter": text, "num_sections": number}
    ),
    "detectable_format:json_format": Kind(form.json_format),
    "detectable_format:title": Kind(form.has_title),
    "combination:two_responses": Kind(form.two_responses),
    "combination:repeat_prompt": Kind(form.repeat_prompt, {"prompt_to_repeat": text}),
    "startend:end_checker": Kind(form.end_checker, {"end_phrase": text}),
    "startend:quotation": Kind(form.quotation),
    "change_case:capital_word_frequency": Kind(
        content.capital_word_frequency, {"capital_frequency": number, "capital_relation": relation}
    ),
    "change_case:english_capital": Kind(content.english_capital),
    "change_case:english_lowercase": Kind(content.english_lowercase),
    "punctuation:no_comma": Kind(form.no_comma),
}
"""Ids as in the published file, each with its arguments' names there (`section_spliter` is spelt so)."""
