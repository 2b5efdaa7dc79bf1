"""How an answer is laid out: marks of Markdown, JSON, beginning and end. One pure function per kind.

Each is the published checker's reading of its instruction, as in `content`.
"""

from __future__ import annotations

import json
import re

OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
STARS = "*" * 6


def number_bullet_lists(answer: str, *, num_bullets: int) -> bool:
    """Exactly so many lines that begin with `*` (and no second star) or with `-`; a rule `---` is one of them."""
    stars = re.findall(r"^[^\S\n]*\*[^\*].*$", answer, re.MULTILINE)
    dashes = re.findall(r"^[^\S\n]*-.*$", answer, re.MULTILINE)
    return len(stars) + len(dashes) == num_bullets


def constrained_response(answer: str) -> bool:
    """One of `OPTIONS` occurs, letter by letter."""
    return any(option in answer for option in OPTIONS)


def number_highlighted_sections(answer: str, *, num_highlights: int) -> bool:
    """At least so many `*text*` and `**text**`, each within a line and not blank; `***text***` is one of both."""
    single = [mark for mark in re.findall(r"\*([^\n*]*)\*", answer) if mark.strip()]
    double = [mark for mark in re.findall(r"\*\*([^\n*]*)\*\*", answer) if mark.strip()]
    return len(single) + len(double) >= num_highlights


def multiple_sections(answer: str, *, section_spliter: str, num_sections: int) -> bool:
    """At least so many marks `Section 1`, with or without a space, in this case.

    Differs: the word is a text; lm-eval takes it for a regular expression.
    """
    return len(re.findall(re.escape(section_spliter.strip()) + r"\s?\d+", answer)) >= num_sections


def json_format(answer: str) -> bool:
    """The whole answer is JSON, in a fence or not.

    Differs: brackets nested beyond what the parser can follow are no JSON; lm-eval ends there.
    """
    text = answer.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def has_title(answer: str) -> bool:
    """A title `<<...>>` within a line that is not blank."""
    return any(title.lstrip("<").rstrip(">").strip() for title in re.findall(r"<<[^\n]+>>", answer))


def two_responses(answer: str) -> bool:
    """Two different parts around `******`; an empty one may stand only first or last."""
    parts = [part.strip() for part in answer.split(STARS)]
    given = [part for part in parts if part]
    return all(parts[1:-1]) and len(given) == 2 and given[0] != given[1]


def repeat_prompt(answer: str, *, prompt_to_repeat: str) -> bool:
    """The answer begins with the request, in any case."""
    return answer.strip().lower().startswith(prompt_to_repeat.strip().lower())


def end_checker(answer: str, *, end_phrase: str) -> bool:
    """The answer ends with the phrase, in any case; double quotes around the answer do not count."""
    return answer.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def quotation(answer: str) -> bool:
    """The answer stands between double quotes."""
    text = answer.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


def no_comma(answer: str) -> bool:
    """No `,` occurs."""
    return "," not in answer
