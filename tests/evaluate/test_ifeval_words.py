"""Sentences, words and words in capitals."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxpo.evaluate.ifeval.words import capital_words, count_words, sentences


@pytest.mark.parametrize(("text", "expected"), [
    ("", []),
    ("  \n ", []),
    ("...", []),
    ("No mark at the end", ["No mark at the end"]),
    ("One. Two! Three?", ["One.", "Two!", "Three?"]),
    ("lower case. goes on too. ", ["lower case.", "goes on too."]),
    ("Really?! Yes.", ["Really?!", "Yes."]),
    ("He said \"Stop.\" Then he left.", ["He said \"Stop.\"", "Then he left."]),
    ("(One.) Two.", ["(One.)", "Two."]),
    ("**One.** *Two.*", ["**One.**", "*Two.*"]),
    ("Wait... what? Well... Now.", ["Wait... what?", "Well...", "Now."]),
    ("Dr. Smith met Mrs. Jones at 5 p.m. on Main St. Louis.",
     ["Dr. Smith met Mrs. Jones at 5 p.m. on Main St. Louis."]),
    ("It closes at 5 p.m. Come early.", ["It closes at 5 p.m.", "Come early."]),
    ("J. R. R. Tolkien wrote it. So did I. We agree.", ["J. R. R. Tolkien wrote it.", "So did I.", "We agree."]),
    ("The U.S. Army left the U.S. The war ended.", ["The U.S. Army left the U.S.", "The war ended."]),
    ("Pi is 3.14 at example.com today.", ["Pi is 3.14 at example.com today."]),
    ("See fig. 3 and No. 5. No. Never.", ["See fig. 3 and No. 5.", "No.", "Never."]),
    ("Use tools, e.g. Hammers, i.e. Heavy ones.", ["Use tools, e.g. Hammers, i.e. Heavy ones."]),
    ("1. First one.\n2. Second one.", ["1. First one.", "2. Second one."]),
    ("## 1. Title\n- a. item here. More.", ["## 1. Title\n- a. item here.", "More."]),
    ("Title\n\nText without a mark\n- item", ["Title\n\nText without a mark\n- item"]),
    ("今天很好。我们走吧！好吗？", ["今天很好。", "我们走吧！", "好吗？"]),
    ("यह एक वाक्य है। यह दूसरा है।", ["यह एक वाक्य है।", "यह दूसरा है।"]),
    ("What? Yes", ["What?", "Yes"]),
])  # fmt: skip
def test_sentences(text, expected):
    assert sentences(text) == expected


@given(st.text(alphabet='aB1 .!?\n"*。', max_size=60))
def test_no_character_of_a_word_is_lost_and_none_is_counted_twice(text):
    def letters(s):
        return [c for c in s if c.isalnum()]

    found = sentences(text)
    assert [c for sentence in found for c in letters(sentence)] == letters(text)
    assert all(letters(sentence) for sentence in found)


@given(st.integers(1, 30))
def test_as_many_plain_sentences_as_were_written(n):
    assert len(sentences(" ".join("The cat sat on the mat." for _ in range(n)))) == n


@pytest.mark.parametrize(("text", "n"), [
    ("", 0), ("one", 1), ("don't", 2), ("well-known", 2), ("a_b", 1), ("3.14", 2), ("é 你好", 2), ("*** --- !", 0),
])  # fmt: skip
def test_words(text, n):
    assert count_words(text) == n


@pytest.mark.parametrize(("text", "expected"), [
    ("", []), ("Stop", []), ("I SAID: STOP!", ["I", "SAID", "STOP"]), ("COVID-19 is A-OK", ["COVID-19", "A-OK"]),
    ("DON'T", ["DON'T"]), ("AND/OR", ["AND", "OR"]), ("123", []), ("U.S. NASA's TVs", ["U.S", "NASA"]), ("ÉTÉ 你 Ö",
     ["ÉTÉ", "Ö"]),
    ("**BOLD**_X_", ["BOLD", "_X_"]),
])  # fmt: skip
def test_capital_words(text, expected):
    assert capital_words(text) == expected
