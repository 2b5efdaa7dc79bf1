"""The arithmetic corpus: answers recomputed from the text, levels as graded as they say, parts that share nothing."""

from __future__ import annotations

import json
import re

import pytest

from jaxpo.corpora.arithmetic import EVENTS, GROUPS, HELD_OUT, LEVELS, TRAIN, Arithmetic, items
from jaxpo.data.rows.formats import read_rows
from jaxpo.data.rows.rows import detect, read_record
from jaxpo.errors import ConfigError

SIGNS = {key: sign for sign, events in EVENTS.items() for key in events}


def recomputed(item):
    """The answer by reading the numbers of the question and the names of its sentences."""
    numbers = [int(n) for n in re.findall(r"\d+", item.prompt)]
    opening, *events = item.template.split()
    now = numbers.pop(0) * (numbers.pop(0) if opening in GROUPS else 1)
    for event in events:
        n = numbers.pop(0)
        now = now + n if SIGNS[event] == "+" else now - n
        assert now > 0, "never less than one is left"
    assert not numbers
    return now


@pytest.fixture(scope="module")
def drawn():
    return {level: items(level, 200, seed=3, held_out=False) for level in LEVELS}


def test_every_answer_follows_from_the_question(drawn):
    for item in (item for level in drawn.values() for item in level):
        assert int(item.answer) == recomputed(item)
        *equations, last = item.completion.splitlines()
        assert last == f"#### {item.answer}"
        for equation in equations:
            left, right = equation.split(" = ")
            a, sign, b = left.split()
            assert int(right) == {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign]
        assert equations[-1].endswith(f"= {item.answer}")


def test_levels_grow_in_digits_operations_and_steps(drawn):
    steps = {level: {item.completion.count("\n") for item in found} for level, found in drawn.items()}
    assert steps == {1: {1}, 2: {1}, 3: {1}, 4: {2}, 5: {1}, 6: {2}}
    values = {level: [int(n) for i in found for n in (*i.numbers, i.answer)] for level, found in drawn.items()}
    assert max(values[1]) == 9
    assert max(values[2]) == 18
    assert max(values[3]) == 81
    assert min(n for i in drawn[5] for n in i.numbers) >= 11
    for item in drawn[2]:
        assert max(*item.numbers, int(item.answer)) >= 10, "a sum or a minuend of ten or more"
    operations = {
        level: {c for i in found for c in re.findall(r" ([-+*]) ", i.completion)} for level, found in drawn.items()
    }
    assert operations == {1: set("+-"), 2: set("+-"), 3: {"*"}, 4: set("+-"), 5: set("+-"), 6: set("+-*")}


def test_training_and_held_out_share_no_problem(tmp_path):
    report = Arithmetic(train=1201, heldout=301).build(tmp_path)
    assert report["counts"] == {"arithmetic_train": 1201, "arithmetic_heldout": 301}
    parts = {
        name: [json.loads(line) for line in (tmp_path / name).read_text().splitlines()] for name in (TRAIN, HELD_OUT)
    }
    problems = {
        name: {(r["template"], *re.findall(r"\d+", r["prompt"][0]["content"])) for r in rows}
        for name, rows in parts.items()
    }
    assert not problems[TRAIN] & problems[HELD_OUT]
    for rows in parts.values():
        assert len({r["prompt"][0]["content"] for r in rows}) == len({r["id"] for r in rows}) == len(rows)
        counts = [sum(r["level"] == level for r in rows) for level in LEVELS]
        assert max(counts) - min(counts) <= 1
    for some in (parts[TRAIN][:120], parts[TRAIN][::12]):
        counts = [sum(r["level"] == level for r in some) for level in LEVELS]
        assert min(counts) >= 8, "a beginning of the file, or every n-th row, has all levels"


def test_the_corpus_is_a_function_of_its_settings(tmp_path):
    first = Arithmetic(train=60, heldout=12).build(tmp_path / "a")
    assert Arithmetic(train=60, heldout=12).build(tmp_path / "a")["reused"]
    assert Arithmetic(train=60, heldout=12).build(tmp_path / "b")["hash"] == first["hash"]
    assert Arithmetic(train=60, heldout=12, seed=1).build(tmp_path / "c")["hash"] != first["hash"]
    # What one Python and numpy version draws, every other one must draw too.
    assert items(1, 1, seed=0, held_out=False)[0].prompt == (
        "Leo keeps 6 cards in a box. Then Leo sells 2. How many cards does Leo have now?"
    )


def test_rows_are_read_as_prompt_and_completion(tmp_path):
    Arithmetic(train=6, heldout=6).build(tmp_path)
    row = next(read_rows([tmp_path / TRAIN]))
    assert detect(row) == "prompt_completion"
    assert (
        read_record(row, "prompt_completion").sides[0].completion[-1]["content"].endswith(f"#### {row.data['answer']}")
    )


def test_more_items_than_a_level_has_are_refused():
    with pytest.raises(ConfigError, match=r"arithmetic level 3 has about \d+ distinct held-out items; ask for fewer"):
        items(3, 200_000, seed=0, held_out=True, one_in=64)


def test_settings_out_of_range_are_named_together(tmp_path):
    with pytest.raises(ConfigError) as error:
        Arithmetic(train=0, levels=(1, 9), held_out_one_in=1).build(tmp_path)
    assert [p.split("=")[0] for p in error.value.problems] == [
        "corpus.levels",
        "corpus.train",
        "corpus.held_out_one_in",
    ]
