"""How an answer is laid out: every kind against answers written by hand."""

import pytest

from jaxpo.evaluate.ifeval.kinds import KINDS
from jaxpo.evaluate.ifeval.score import Instruction

BULLETS = "detectable_format:number_bullet_lists"
OPTION = "detectable_format:constrained_response"
HIGHLIGHTS = "detectable_format:number_highlighted_sections"
SECTIONS = "detectable_format:multiple_sections"
JSON = "detectable_format:json_format"
TITLE = "detectable_format:title"
TWO = "combination:two_responses"
REPEAT = "combination:repeat_prompt"
END = "startend:end_checker"
QUOTES = "startend:quotation"
COMMA = "punctuation:no_comma"

# id, arguments, answers that follow, answers that do not.
CASES = [
    (BULLETS, {"num_bullets": 2},
     ["* a\n* b", "- a\n- b", "Intro:\n  * a\n\n\n\t- b\nEnd.", "*a*\n* b", "* é\n* 你", "-\n-"],
     ["* a", "", "* a\n* b\n* c", "** a\n** b", "1. a\n2. b", "a * b\nc - d", "• a\n• b", "* a\n* b\n---"]),
    (OPTION, {}, ["My answer is yes.", "**My answer is no.**", "Well. My answer is maybe. Ok",
     "My answer is yes. My answer is no."],
     ["my answer is yes.", "My answer is yes", "", "yes", "My  answer is yes."]),
    (HIGHLIGHTS, {"num_highlights": 2},
     ["*a* and *b*", "**a** and **b**", "*a*\n**b**", "***both***", "*é* *你*", "* x *y* z*"],
     ["*a*", "", "* a\n* b", "** ** *b*", "*a\nb* *c*", "_a_ _b_", "****** *c*"]),
    (HIGHLIGHTS, {"num_highlights": 1}, ["**a**"], ["plain", "* *", "****"]),
    (SECTIONS, {"section_spliter": "SECTION", "num_sections": 2},
     ["SECTION 1\na\nSECTION 2\nb", "SECTION1 SECTION2", "**SECTION 1**\nx\n**SECTION 12**",
     "SECTION 1 SECTION 1 SECTION 3"],
     ["Section 1\nSection 2", "SECTION 1", "", "SECTION A\nSECTION B", "SECTION  1\nSECTION  2",
     "SECTION one SECTION two"]),
    (SECTIONS, {"section_spliter": "Q.", "num_sections": 1}, ["Q. 1"], ["QX 1", "Q 1"]),
    (SECTIONS, {"section_spliter": " Day ", "num_sections": 1}, ["Day 1", "Today 1 Day 2"], ["day 1"]),
    (JSON, {}, ['{"a": 1}', "[1, 2]", '```json\n{"a": [true, null]}\n```', "```\n[]\n```", '"text"', "3", '{"é": "你"}',
     " {} \n"],
     ["", "{a: 1}", "Here: {}", "{'a': 1}", '{"a": 1}\n{"b": 2}', "```json\n```", "```python\n{}\n```", "{} thanks",
     "[" * 100_000]),
    (TITLE, {}, ["<<poem of joy>>\nx", "a <<b>> c", "# <<Élan 你>>", "<< x >>", "<<<a>>>"],
     ["<poem>", "", "<<>>", "<< >>", "<<a\nb>>", "«a»", "<<a>", ">>a<<"]),
    (TWO, {}, ["a\n******\nb", "a ****** b", "******a******b******", "a ****** a b"],
     ["a", "", "a ****** a", "a\n******\n a ", "a ***** b", "a ****** b ****** c", "a ************ b", "******",
     "a ******"]),
    (REPEAT, {"prompt_to_repeat": "Write a song. "},
     ["Write a song. La la.", "  WRITE A SONG.\nLa", "write a song."],
     ["Sure! Write a song. La", "", "Write a poem.", '"Write a song." La', "Write  a song."]),
    (END, {"end_phrase": "Peace!"},
     ["Bye. Peace!", '"Bye. Peace!"', "PEACE!  \n", "worldpeace!"],
     ["Peace! Bye.", "", "Peace", "Peace!*", "Peace!'", "Peace!\n\nP.S. x"]),
    (END, {"end_phrase": " Any other questions? "}, ["Done. any other questions?"], ["Any other questions? No."]),
    (QUOTES, {}, ['"Hello."', ' "a\nb" ', '""', '"é" and "你"'],
     ["Hello", "", '"', '"Hello', "'Hello'", "“Hello”", '**"Hello"**', "«a»"]),
    (COMMA, {}, ["No commas here.", "a; b、c", "1.000"], ["a, b", ",", "1,000", "```\n[1, 2]\n```"]),
]  # fmt: skip


def verdict(id, arguments, answer):
    return Instruction(id, KINDS[id].check, arguments).followed(answer)


@pytest.mark.parametrize(("id", "arguments", "answer"), [(i, a, x) for i, a, yes, _ in CASES for x in yes])
def test_answers_that_follow(id, arguments, answer):
    assert verdict(id, arguments, answer) is True


@pytest.mark.parametrize(("id", "arguments", "answer"), [(i, a, x) for i, a, _, no in CASES for x in no])
def test_answers_that_do_not(id, arguments, answer):
    assert verdict(id, arguments, answer) is False


def test_every_kind_of_form_has_answers_of_both_sorts():
    modules = {id for id, kind in KINDS.items() if kind.check.__module__.endswith(".form")}
    assert {id for id, _, _, _ in CASES} == modules
    for id in modules:
        assert sum(len(yes) for i, _, yes, _ in CASES if i == id) >= 3
        assert sum(len(no) for i, _, _, no in CASES if i == id) >= 4


def test_there_are_25_kinds():
    assert len(KINDS) == 25
