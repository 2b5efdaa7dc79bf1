"""RAKE's key phrases and the columns that SPO-degree trains on."""

from pathlib import Path

import pytest

from jaxpo.construct.base import Tools
from jaxpo.construct.spo_degree import STOP_WORDS, SPODegree, rake
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.rows import detect, read_record
from jaxpo.data.rows.segments import with_spans
from jaxpo.errors import ConfigError, DataError


def phrases(text, stop_words=STOP_WORDS):
    return [(text[p.start : p.end], round(p.score, 6)) for p in rake(text, stop_words)]


def test_rake_scores():
    assert phrases("deep learning is deep", frozenset({"is"})) == [("deep learning", 3.5), ("deep", 1.5)]


def test_punctuation_and_stop_words_separate_phrases_but_spaces_do_not():
    text = "Neural networks, trained on large\ndata sets (images) and the well-known MNIST."
    assert [p for p, _ in phrases(text)] == [
        "large\ndata sets",
        "Neural networks",
        "well-known MNIST",
        "trained",
        "images",
    ]


def test_every_occurrence_is_listed_beside_its_phrase_and_ties_follow_the_text():
    text = "Green tea. The black tea. A green tea. Coffee."
    # tea: degree 6, frequency 3; green: 4 / 2; black: 2 / 1.
    assert phrases(text) == [("Green tea", 4.0), ("green tea", 4.0), ("black tea", 4.0), ("Coffee", 1.0)]


@pytest.mark.parametrize("text", ["", "   ", "...", "it is what it is", "Don’t you?"])
def test_texts_without_a_key_phrase(text):
    assert rake(text) == []


def test_one_word_and_other_scripts():
    assert phrases("Paris") == [("Paris", 1.0)]
    assert [p for p, _ in phrases("Grüße aus 東京!")] == ["Grüße aus 東京"]


def test_stop_words_are_lower_case_and_separate_contractions():
    assert {"the", "isn't", "of", "myself"} <= STOP_WORDS
    assert all(word == word.lower() for word in STOP_WORDS)
    assert len(STOP_WORDS) > 250


def rows(*data):
    return [Row(Path("pairs.jsonl"), i, d) for i, d in enumerate(data, start=1)]


def test_both_answers_get_spans_by_descending_score_that_training_reads():
    tools = Tools()
    given = rows(
        {
            "prompt": "What is deep learning? ",
            "chosen": "Deep learning is deep.",
            "rejected": "It is not.",
            "margin": 1,
        },
        {"chosen": "Q? Deep learning is deep.", "rejected": "Q? Statistics."},  # the prompt stands in both
    )
    new = list(SPODegree().run(given, tools))
    assert new[0] == {**given[0].data, "chosen_keywords": [[0, 13], [17, 21]], "rejected_keywords": []}
    assert tools.counts == {"key_phrases": 5, "answers_without_key_phrase": 1}
    assert [new[1]["chosen"][a:b] for a, b in new[1]["chosen_keywords"]] == ["Deep learning", "deep"]
    for made in rows(*new):
        chosen = with_spans(made, read_record(made, detect(made)).sides, "keyword")[0]
        assert sorted(mark.number for mark in chosen.marks) == [1, 2]


def test_options_and_bad_rows():
    given = rows({"prompt": "p", "chosen": "Deep learning is deep.", "rejected": "Other words."})
    assert next(SPODegree(most=1).run(given, Tools()))["chosen_keywords"] == [[0, 13]]
    more = next(SPODegree(more_stop_words=("Learning",)).run(given, Tools()))
    assert more["chosen_keywords"] == [[0, 4], [17, 21]]
    with pytest.raises(ConfigError, match="most"):
        list(SPODegree(most=-1).run(given, Tools()))
    with pytest.raises(DataError, match="no pair"):
        list(SPODegree().run(rows({"text": "plain"}), Tools()))
