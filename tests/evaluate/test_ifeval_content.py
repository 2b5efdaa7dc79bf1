"""What an answer says: every kind against answers written by hand."""

import pytest

from jaxpo.evaluate.ifeval.kinds import KINDS
from jaxpo.evaluate.ifeval.score import Instruction

FRENCH = "Le petit chat dort sur le canapé pendant que nous préparons le repas du soir."
GERMAN = "Der Hund läuft durch den Garten und bellt die Nachbarn jeden Morgen laut an."
HINDI = "भारत एक विशाल देश है और यहाँ बहुत सी भाषाएँ बोली जाती हैं।"
URDU = "پاکستان ایک خوبصورت ملک ہے اور یہاں کے لوگ بہت مہمان نواز ہیں۔"
CHINESE = "今天天气很好，我们一起去公园散步，然后吃午饭。"
ENGLISH = "The quick brown fox jumps over the lazy dog while the children watch from the window."

KEYWORDS = "keywords:existence"
FREQUENCY = "keywords:frequency"
FORBIDDEN = "keywords:forbidden_words"
LETTERS = "keywords:letter_frequency"
LANGUAGE = "language:response_language"
SENTENCES = "length_constraints:number_sentences"
PARAGRAPHS = "length_constraints:number_paragraphs"
WORDS = "length_constraints:number_words"
FIRST = "length_constraints:nth_paragraph_first_word"
PLACEHOLDERS = "detectable_content:number_placeholders"
POSTSCRIPT = "detectable_content:postscript"
CAPITALS = "change_case:capital_word_frequency"
UPPER = "change_case:english_capital"
LOWER = "change_case:english_lowercase"

FEWER, MORE = {"relation": "less than"}, {"relation": "at least"}
LIMERICK = {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "president"}

# id, arguments, answers that follow, answers that do not.
CASES = [
    (KEYWORDS, {"keywords": ("climate", "energy")},
     ["Climate change needs green ENERGY.", "**climate**\n- energies? energy!", "energyclimate"],
     ["Climate alone.", "", "clim ate energy", "cl-imate energy"]),
    (KEYWORDS, {"keywords": ("C++", "a.b")}, ["I like c++ and A.B too."], ["I like C and a.b", "C++ and aXb", "C+++"]),
    (KEYWORDS, {"keywords": ("café",)}, ["Au CAFÉ.", "cafés"], ["cafe", "ca fé"]),
    (KEYWORDS, {"keywords": ("well worth watching",)}, ["It is well worth watching."], ["well  worth watching"]),
    (FREQUENCY, {"keyword": "war", "frequency": 2, **MORE}, ["War and war.", "warwar", "Warm wars"],
     ["war", "", "w ar war"]),
    (FREQUENCY, {"keyword": "war", "frequency": 2, **FEWER},
     ["peace", "One war.", "*war*"], ["war war", "Postwar warning", "WAR! war?"]),
    (FREQUENCY, {"keyword": "aa", "frequency": 2, **MORE}, ["aaaa", "aa aa"], ["aaa"]),
    (FREQUENCY, {"keyword": "?", "frequency": 1, **MORE}, ["Why?"], ["Why."]),
    (FORBIDDEN, {"forbidden_words": ("rock", "roll")},
     ["A rocking chair.", "Stones.", "troll", "rock_roll"],
     ["Rock!", "**roll**", "ROCK\n", "punk-rock", "the rock's edge"]),
    (FORBIDDEN, {"forbidden_words": ("C++",)}, ["C and C#", "aC++"], ["I write C++.", "c++"]),
    (FORBIDDEN, {"forbidden_words": ("été",)}, ["étés répété"], ["L'été", "Été."]),
    (LETTERS, {"letter": "q", "let_frequency": 2, "let_relation": "at least"}, ["Quick quiz", "qq", "*Q*q"],
     ["Quick", "", "g g"]),
    (LETTERS, {"letter": "T", "let_frequency": 2, "let_relation": "less than"}, ["a t", "none"], ["Tt", "letter"]),
    (LETTERS, {"letter": "#", "let_frequency": 4, "let_relation": "at least"}, ["#a #b #c #d", "####"],
     ["#a #b #c", "h h h h"]),
    (LETTERS, {"letter": "!", "let_frequency": 1, "let_relation": "less than"}, ["Calm."], ["Loud!"]),
    (LANGUAGE, {"language": "fr"}, [FRENCH, f"**{FRENCH}**"], [ENGLISH, GERMAN, "", "12345 67890", "!!!"]),
    (LANGUAGE, {"language": "de"}, [GERMAN], [FRENCH, HINDI]),
    (LANGUAGE, {"language": "hi"}, [HINDI], [URDU, ENGLISH]),
    (LANGUAGE, {"language": "ur"}, [URDU], [HINDI]),
    (LANGUAGE, {"language": "zh"}, [CHINESE], [ENGLISH]),
    (LANGUAGE, {"language": "en"}, [ENGLISH], [CHINESE, "1 + 1 = 2", "🙂🙂🙂"]),
    (SENTENCES, {"num_sentences": 2, **MORE}, ["One. Two.", "Why? Because!", "你好。再见。", "A b c.\nD e f."],
     ["One.", "", "Dr. Smith left.", "3.14 is pi.", "* one\n* two"]),
    (SENTENCES, {"num_sentences": 2, **FEWER}, ["Only one.", "no mark", "See example.com today.", "..."],
     ["One. Two.", "Go! Go!"]),
    (WORDS, {"num_words": 3, **MORE}, ["one two three", "well-known man", "don't go", "1, 2, 3"],
     ["one two", "", "--- *** !!!"]),
    (WORDS, {"num_words": 3, **FEWER}, ["one two", "# Hi **there**", "你好 再见"], ["one two three", "it's me"]),
    (PARAGRAPHS, {"num_paragraphs": 2},
     ["One.\n***\nTwo.", "a *** b", "***\na\n***\nb\n***", "a\n\n***\n\nb"],
     ["One.\n\nTwo.", "", "a", "a\n***\n***\nb", "a *** b *** c", "a * * * b"]),
    (PARAGRAPHS, {"num_paragraphs": 1}, ["One paragraph.", "***\none"], ["a***b", " ", "***"]),
    (FIRST, LIMERICK,
     ["First.\n\nPresident Lincoln.", "a\n\n\"president\" b", "a\n\n'President's day", "a\n\nPRESIDENT, he said",
     "a\n\npresident"],
     ["President.\n\nFirst.", "a\n\npresidents b", "a\n\n**President** b", "a\npresident", "a\n\npresident\n\nc", "",
     "a\n\n\n\npresident"]),
    (FIRST, {"num_paragraphs": 1, "nth_paragraph": 1, "first_word": "ÉLAN"}, ["élan vital", "  Élan."],
     ["elan", "\n\nélan"]),
    (PLACEHOLDERS, {"num_placeholders": 2}, ["[name] and [address]", "[a][b]", "[a] [x](url)", "[] []"],
     ["[name]", "", "(name) (b)", "[na\nme] [b]", "[[name]]"]),
    (PLACEHOLDERS, {"num_placeholders": 0}, ["none"], [" "]),
    (POSTSCRIPT, {"postscript_marker": "P.S."}, ["Bye.\nP.S. Call me.", "p. s. hi", "**P.S.** hi", "P.P.S. x P.S. y"],
     ["PS call", "P.S call", "", "Post scriptum"]),
    (POSTSCRIPT, {"postscript_marker": "P.P.S"}, ["P.P.S. hi", "p. p. s hi", "x\n\nP.P.S: y"], ["P.S. hi", "PPS", ""]),
    (POSTSCRIPT, {"postscript_marker": "N.B. (x)"}, ["n.b. (x) yes"], ["N.B. x", "NxBx (x)"]),
    (CAPITALS, {"capital_frequency": 2, "capital_relation": "at least"},
     ["STOP and GO", "NASA's USA", "A COVID-19", "ÉTÉ ÇA", "**ONE** _TWO_", "AND/OR"],
     ["STOP", "", "Stop Go", "DON'T", "123 456", "AT&t x", "U.S. troops"]),
    (CAPITALS, {"capital_frequency": 2, "capital_relation": "less than"}, ["Quiet.", "ONE", "DON'T"],
     ["ONE TWO", "I AM"]),
    (UPPER, {}, [ENGLISH.upper(), f"# {ENGLISH.upper()} 100%!"], [ENGLISH, HINDI, "", "123", ENGLISH.upper() + " a"]),
    (LOWER, {}, [ENGLISH.lower(), f"* {ENGLISH.lower()}\n* 2nd"],
     [ENGLISH, FRENCH.lower(), "", "123", "İ " + ENGLISH.lower()]),
]  # fmt: skip


def verdict(id, arguments, answer):
    return Instruction(id, KINDS[id].check, arguments).followed(answer)


@pytest.mark.parametrize(("id", "arguments", "answer"), [(i, a, x) for i, a, yes, _ in CASES for x in yes])
def test_answers_that_follow(id, arguments, answer):
    assert verdict(id, arguments, answer) is True


@pytest.mark.parametrize(("id", "arguments", "answer"), [(i, a, x) for i, a, _, no in CASES for x in no])
def test_answers_that_do_not(id, arguments, answer):
    assert verdict(id, arguments, answer) is False


def test_every_kind_of_content_has_answers_of_both_sorts():
    modules = {id for id, kind in KINDS.items() if kind.check.__module__.endswith(".content")}
    assert {id for id, _, _, _ in CASES} == modules
    for id in modules:
        assert sum(len(yes) for i, _, yes, _ in CASES if i == id) >= 2
        assert sum(len(no) for i, _, _, no in CASES if i == id) >= 3


def test_the_language_of_a_doubtful_answer_is_told_once_and_for_all():
    doubtful = ["ok si la", "on a tie", "a la carte", "internet radio", "no problem taxi"]
    first = [KINDS[LANGUAGE].check(text, language="en") for text in doubtful]
    for _ in range(5):
        assert [KINDS[LANGUAGE].check(text, language="en") for text in doubtful] == first


def test_the_detector_takes_capitals_for_english():
    """A reading that is kept: its profiles were made of ordinary text."""
    assert KINDS[LANGUAGE].check(FRENCH, language="fr")
    assert not KINDS[LANGUAGE].check(FRENCH.upper(), language="fr")
    assert KINDS[UPPER].check(FRENCH.upper())
