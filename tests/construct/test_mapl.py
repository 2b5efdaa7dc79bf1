"""MAPL's prompts: every instruction checks out, prompts are ordered as the rule says, gaps are signed right."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from jaxpo.construct.base import Tools, constructions
from jaxpo.construct.instructions import GENERATORS, bullets, paragraphs, sentences, words
from jaxpo.construct.mapl import MAPL, added, assignments, prompt_order
from jaxpo.data.rows.formats import Row
from jaxpo.data.rows.rows import read_record
from jaxpo.errors import ConfigError, DataError
from jaxpo.objectives.methods.mapl import INTER, INTRA

RESPONSES = (
    "The answer is 42, however you look at it. Is that clear? Yes!",
    "short words only",
    "- first point\n- second point\n\nA closing paragraph, with more words than the bullets had.",
    "Ok",
)


def test_measures_of_a_text():
    text = RESPONSES[2]
    assert words("Don't stop, A1!") == ["don't", "stop", "a1"]
    assert sentences("One. Two! Three? four") == 4
    assert (bullets(text), paragraphs(text)) == (2, 2)
    assert sentences("") == paragraphs("") == bullets("") == 0


@pytest.mark.parametrize("kind", GENERATORS)
def test_generators_make_what_is_met_and_what_is_violated(kind):
    rng = np.random.default_rng(0)
    made = {True: 0, False: 0}
    for response, met in itertools.product((*RESPONSES, ""), (True, False)):
        for _ in range(5):
            instruction = GENERATORS[kind](response, met, rng)
            if instruction is None:
                continue
            made[met] += 1
            assert instruction.kind == kind
            assert instruction.holds(response) == met, (instruction.text, response)
            assert "{" not in instruction.text
    assert min(made.values()) > 0


def test_bounds_hold_for_other_responses_by_their_number():
    rng = np.random.default_rng(1)
    low = GENERATORS["min_words"]("one two three four", True, rng)
    n = int(re.search(r"\d+", low.text)[0])
    assert 2 <= n <= 4
    assert low.holds(" ".join(["w"] * n))
    assert not low.holds(" ".join(["w"] * (n - 1)))
    word = GENERATORS["exclude"]("plain sentence", False, rng)
    assert not word.holds("plain sentence")
    assert word.holds("nothing here")


def test_prompt_order_is_the_papers_rule_antisymmetric_and_undecided_when_all_is_met():
    lists = [list(x) for n in (1, 2, 3) for x in itertools.product((True, False), repeat=n)]
    for a, b in itertools.product(lists, repeat=2):
        assert prompt_order(a, b) == -prompt_order(b, a)
        expected = (all(a) and not all(b)) or (any(a) and not any(b))
        assert (prompt_order(a, b) == 1) == expected
    assert prompt_order([True, True], [True]) == 0
    assert prompt_order([True, False], [False, True]) == 0
    assert prompt_order([True, True], [True, False]) == 1
    assert prompt_order([True, False], [False, False]) == 1


def test_assignments_are_always_ordered_and_take_both_forms():
    rng = np.random.default_rng(2)
    forms = set()
    for _ in range(200):
        plus, minus = assignments(int(rng.integers(1, 4)), rng)
        assert prompt_order(plus, minus) == 1
        forms.add((all(plus), any(minus)))
    assert {(True, True), (False, False)} <= forms


def test_instructions_go_after_the_prompts_words():
    low = GENERATORS["commas"]("a, b", True, np.random.default_rng(0))
    assert added("Say it.\n\n", [low, low]) == "Say it. Use a comma. Use a comma.\n\n"
    assert added("", [low]) == "Use a comma."
    chat = [
        {"role": "user", "content": "Hi "},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Go"},
    ]
    assert [m["content"] for m in added(chat, [low])] == ["Hi ", "Yes?", "Go Use a comma."]
    assert chat[2]["content"] == "Go"


def pairs(n=60):
    return [
        {"prompt": f"Question {i}? ", "chosen": RESPONSES[i % 3], "rejected": RESPONSES[(i + 1) % 3]} for i in range(n)
    ]


def run(data, seed=0, **options):
    tools = Tools(seed=seed)
    rows = [Row(Path("m.jsonl"), i, d) for i, d in enumerate(data, start=1)]
    return list(MAPL(**options).run(rows, tools)), tools.counts


CHECKS = {
    r"Use at least (\d+) words?\.": lambda r, n: len(words(r)) >= int(n),
    r"Use at most (\d+) words?\.": lambda r, n: len(words(r)) <= int(n),
    r"Write at least (\d+) sentences?\.": lambda r, n: sentences(r) >= int(n),
    r"Write at most (\d+) sentences?\.": lambda r, n: sentences(r) <= int(n),
    r"Write at least (\d+) paragraphs?\.": lambda r, n: paragraphs(r) >= int(n),
    r"List at least (\d+) bullet points?\.": lambda r, n: bullets(r) >= int(n),
    r'Include the word "(\w+)"\.': lambda r, w: w in words(r),
    r'Do not use the word "(\w+)"\.': lambda r, w: w not in words(r),
    r'Begin with the word "([\w\']+)"\.': lambda r, w: words(r)[0] == w,
    r'End with the word "([\w\']+)"\.': lambda r, w: words(r)[-1] == w,
    r"(Use a comma)\.": lambda r, _: "," in r,
    r"(Do not use commas)\.": lambda r, _: "," not in r,
    r"(Ask a question)\.": lambda r, _: "?" in r,
    r"(Do not ask questions)\.": lambda r, _: "?" not in r,
    r"(Use an exclamation mark)\.": lambda r, _: "!" in r,
    r"(Do not use exclamation marks)\.": lambda r, _: "!" not in r,
    r"(Use digits)\.": lambda r, _: bool(re.search(r"\d", r)),
    r"(Do not use digits)\.": lambda r, _: not re.search(r"\d", r),
    r"(Write in lower case only)\.": lambda r, _: r == r.lower(),
    r"(Use at least one capital letter)\.": lambda r, _: r != r.lower(),
    r"(End with a full stop)\.": lambda r, _: r.endswith("."),
    r"(Do not end with a full stop)\.": lambda r, _: not r.endswith("."),
}


def met(prompt, response):
    """Which of the instructions in a prompt a response meets, read from the prompt's text alone."""
    return [check(response, m[1]) for pattern, check in CHECKS.items() for m in re.finditer(pattern, prompt)]


def test_intra_prompts_are_ordered_for_their_response():
    rows, _ = run(pairs())
    seen = 0
    for row in rows:
        for side, (plus, minus) in row["intra"].items():
            flags = met(plus, row[side]), met(minus, row[side])
            assert all(len(f) >= 1 for f in flags)
            assert prompt_order(*flags) == 1
            assert plus.startswith(row["prompt"].strip())
            seen += 1
    assert seen > 100
    assert {side for row in rows for side in row["intra"]} == {"chosen", "rejected"}


def test_inter_prompts_move_the_gap_as_their_sign_says():
    rows, _ = run(pairs(), max_instructions=2)
    signs = [row["inter_sign"] for row in rows if "inter_prompt" in row]
    assert {1, -1} == set(signs)
    for row in rows:
        if "inter_prompt" in row:
            better, worse = ("chosen", "rejected") if row["inter_sign"] == 1 else ("rejected", "chosen")
            flags = met(row["inter_prompt"], row[better])
            assert 1 <= len(flags) <= 2
            assert all(flags)
            assert not any(met(row["inter_prompt"], row[worse]))
    assert {row["inter_sign"] for row in run(pairs(), weakened_share=0.0)[0] if "inter_prompt" in row} == {1}


def test_rows_are_a_function_of_the_seed_and_read_as_pairs():
    rows, _ = run(pairs(10))
    assert run(pairs(10))[0] == rows
    assert run(pairs(10), seed=1)[0] != rows
    for row in rows:
        sides = read_record(Row(Path("t"), 1, row), "preference", optional=(*INTER, *INTRA)).sides
        roles = {side.role for side in sides}
        assert roles >= {"chosen", "rejected", *INTRA}
        assert ("inter_prompt" in row) == ({*INTER} <= roles)
    only, _ = run(pairs(10), inter=False)
    assert all("inter_prompt" not in row and "intra" in row for row in only)
    only, _ = run(pairs(10), intra=False)
    assert all("intra" not in row for row in only)


def test_responses_that_no_instruction_tells_apart_are_counted():
    rows, counts = run([{"prompt": "p ", "chosen": "Ok ok.", "rejected": "Ok. ok."}] * 3, weakened_share=0.0)
    for row in rows:
        if "inter_prompt" in row:
            assert all(met(row["inter_prompt"], row["chosen"]))
    assert sum("inter_prompt" not in row for row in rows) == counts.get("without_inter_prompt", 0)


def test_bad_rows_and_options():
    with pytest.raises(ConfigError, match="--max-instructions is 0"):
        run([], max_instructions=0)
    with pytest.raises(ConfigError, match="--weakened-share"):
        run([], weakened_share=1.5)
    with pytest.raises(DataError, match="different prompts"):
        run([{"prompt_chosen": "a", "chosen": "b", "prompt_rejected": "c", "rejected": "d"}])
    assert constructions()["mapl"] is MAPL
