"""RRPO's phrase marking and corrupted prompts."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from jaxpo.construct.base import Tools
from jaxpo.construct.rrpo import RRPO, corrupt, corrupt_prompt, differing_spans
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.rows import detect, read_record
from jaxpo.data.rows.segments import with_spans
from jaxpo.errors import ConfigError, DataError


def phrases(chosen, rejected):
    found = differing_spans(chosen, rejected)
    return tuple([text[a:b] for a, b in spans] for text, spans in zip((chosen, rejected), found, strict=True))


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        ("A red car and two dogs.", "A blue van and two dogs.", (["red car"], ["blue van"])),
        ("It has eight legs, not six.", "It has six legs, not eight.", (["eight", "six"], ["six", "eight"])),
        ("He runs.", "He runs very fast.", ([], ["very fast"])),
        ("Yes", "No", (["Yes"], ["No"])),
        ("same  text", "same text", ([], [])),
        ("", "anything", ([], ["anything"])),
        ("Grüße, 東京!", "Hello.", (["Grüße, 東京!"], ["Hello."])),
    ],
)
def test_differing_phrases(chosen, rejected, expected):
    assert phrases(chosen, rejected) == expected


def test_what_lies_outside_the_spans_is_the_same_on_both_sides():
    rng = np.random.default_rng(0)
    for _ in range(50):
        a = rng.choice(list("abcde"), 12)
        b = np.where(rng.random(12) < 0.3, rng.choice(list("xyz"), 12), a)[: rng.integers(6, 13)]
        texts = " ".join(a), " ".join(b)
        rest = []
        for text, spans in zip(texts, differing_spans(*texts), strict=True):
            assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
            inside = {i for start, end in spans for i in range(start, end)}
            rest.append("".join(c for i, c in enumerate(text) if i not in inside and c != " "))
        assert rest[0] == rest[1]


CONTEXT = "It rains. The cat sleeps! Dogs bark. Why? What does the cat do?"


def test_corruption_masks_a_share_and_keeps_the_question():
    new = corrupt(CONTEXT, np.random.default_rng(0), share=0.5, shuffle=False, mask="[...]")
    assert new.endswith("What does the cat do?")
    assert new.count("[...]") == 2  # half of four sentences
    kept = [s for s in ("It rains.", "The cat sleeps!", "Dogs bark.", "Why?") if s in new]
    assert len(kept) == 2
    assert new == corrupt(CONTEXT, np.random.default_rng(0), share=0.5, shuffle=False, mask="[...]")


def test_shuffling_reorders_the_context_only():
    shuffled = [corrupt(CONTEXT, np.random.default_rng(seed), share=0.01, shuffle=True, mask="#") for seed in range(8)]
    assert all(s.endswith("What does the cat do?") for s in shuffled)
    assert len({s.replace("#", "") for s in shuffled}) > 3
    assert all(s.count("#") == 1 for s in shuffled)  # at least one sentence is masked


def test_a_single_sentence_loses_words_and_nothing_stays_nothing():
    new = corrupt("what does the cat do", np.random.default_rng(1), share=0.4, shuffle=False, mask="_")
    assert new.split().count("_") == 2
    assert corrupt("  ", np.random.default_rng(1), share=0.4, shuffle=False, mask="_") == "  "
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": CONTEXT}]
    got = corrupt_prompt(chat, np.random.default_rng(0), share=0.5, shuffle=False, mask="_")
    assert got[0] == chat[0]
    assert got[1]["content"].count("_") == 2
    assert chat[1]["content"] == CONTEXT


class Writer(Tools):
    """Tools whose model answers from a list, whatever the prompt."""

    def __init__(self, *answers, seed=0):
        super().__init__(seed=seed)
        self.answers, self.asked = answers, []

    def generate(self, prompts, n, **options):
        self.asked += prompts
        return [list(self.answers)] * len(prompts)


def rows(*data):
    return [Row(Path("pairs.jsonl"), i, d) for i, d in enumerate(data, start=1)]


def test_pairs_get_the_spans_that_training_reads():
    tools = Tools()
    chat = [{"role": "user", "content": "Colour?"}]
    given = rows(
        {"prompt": "Colour? ", "chosen": "It is red.", "rejected": "It is blue.", "margin": 2},
        {"chosen": "Colour? It is red.", "rejected": "Colour? It is dark blue."},  # the prompt stands in both
        {"prompt": chat, "chosen": [{"role": "assistant", "content": "Red"}], "rejected": "Blue"},
        {"prompt": "Colour? ", "chosen": "It is red.", "rejected": "It  is red. "},
    )
    new = list(RRPO().run(given, tools))
    assert len(new) == 3
    assert tools.counts == {"dropped_no_word_differs": 1, "phrases": 6}
    assert new[0] == {**given[0].data, "chosen_spans": [[6, 9]], "rejected_spans": [[6, 10]]}
    assert new[1]["rejected"][slice(*new[1]["rejected_spans"][0])] == "dark blue"
    for made in rows(*new):  # what the data room makes of them
        sides = with_spans(made, read_record(made, detect(made)).sides, "phrase")
        assert all(side.marks for side in sides)


def test_missing_rejected_answers_come_from_the_corrupted_prompt():
    given = rows(
        {"prompt": CONTEXT, "completion": "It sleeps.", "annotator": "a"},
        {"prompt": CONTEXT, "chosen": "It sleeps.", "rejected": "It barks."},
    )
    tools = Writer("", "It  sleeps.", "It eats.")
    new = list(RRPO().run(given, tools))
    assert len(tools.asked) == 1  # the pair keeps its own answer
    assert "[...]" in tools.asked[0]
    assert new[0]["rejected"] == "It eats."
    assert new[0]["prompt"] == CONTEXT  # training sees the whole prompt
    assert new[0]["annotator"] == "a"
    assert (new[0]["chosen_spans"], new[0]["rejected_spans"]) == ([[3, 9]], [[3, 7]])
    same = Writer("It sleeps.")
    assert list(RRPO().run(given[:1], same)) == []
    assert same.counts == {"dropped_same_answer": 1}


def test_the_seed_decides_what_is_masked():
    given = rows({"prompt": CONTEXT, "completion": "It sleeps."})
    asked = []
    for seed in (0, 0, 1, 2, 3):
        tools = Writer("x", seed=seed)
        list(RRPO().run(given, tools))
        asked += tools.asked
    assert asked[0] == asked[1]
    assert len(set(asked)) > 1


def test_bad_rows_and_options_are_refused():
    with pytest.raises(DataError, match="no answers to compare"):
        list(RRPO().run(rows({"text": "plain"}), Tools()))
    with pytest.raises(ConfigError, match="--model"):
        list(RRPO().run(rows({"prompt": "p", "completion": "c"}), Tools()))
    with pytest.raises(ConfigError, match="mask-low"):
        list(RRPO(mask_low=0.7, mask_high=0.5).run([], Tools()))
    with pytest.raises(ConfigError, match="samples"):
        list(RRPO(samples=0).run([], Tools()))
