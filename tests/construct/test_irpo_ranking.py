"""IRPO's lists of graded items."""

import numpy as np
import pytest
from construct.list_rows import Echo, rows, tools

from jaxpo.construct.irpo_ranking import IRPORanking, graded_items, shuffled
from jaxpo.data.rows.rows import read_record
from jaxpo.errors import ConfigError, DataError

DATA = [
    {"prompt": "films like A", "ground_truth": ["t1", "t2", "t3", "t4"], "suggested": ["s1", "t1", "s2"]},
    {"prompt": "films like B", "ground_truth": ["u1"], "negatives": ["n1", "u1"]},
    {"prompt": "films like C", "ground_truth": [f"v{k}" for k in range(12)]},
]


def test_items_are_graded_and_limited():
    items = graded_items(list("abcd"), list("efghijk"), [*"azyx"], 10)
    assert items == [*((x, 2) for x in "abc"), *((x, 1) for x in "efghi"), ("z", 0), ("y", 0)]
    assert graded_items(["a"], ["a", "b"], [], 4, truth_grade=1) == [("a", 1), ("b", 1)]
    assert len(graded_items(list("abc"), list("defgh"), list("ijklmnop"), 6)) == 6


def test_shuffling_keeps_each_grade_with_its_item():
    items = [(f"i{k}", k % 3) for k in range(20)]
    texts, grades = shuffled(items, np.random.default_rng(0))
    assert sorted(zip(texts, grades, strict=True)) == sorted(items)
    assert texts != [text for text, _ in items]


def test_rows():
    used = tools()
    out = list(IRPORanking(n=8).run(rows(*DATA), used))
    for given, row in zip(DATA, out, strict=True):
        grade = dict(zip(row["items"], row["relevance"], strict=True))
        assert len(grade) == len(row["items"]) == 8
        assert set(row) == {"prompt", "items", "relevance"}
        truths = given["ground_truth"]
        assert [x for x, y in grade.items() if y == 2] != []
        assert all((y == 2) == (x in truths[:3]) for x, y in grade.items())
        assert all(x not in truths for x, y in grade.items() if y == 0)
        read_record(rows(row)[0], "items", extras=("relevance",))
    assert {"s1", "s2"} == {x for x, y in zip(out[0]["items"], out[0]["relevance"], strict=True) if y == 1}
    assert "n1" in out[1]["items"]
    assert list(IRPORanking(n=8).run(rows(*DATA), tools())) == out
    assert list(IRPORanking(n=8).run(rows(*DATA), tools(seed=1))) != out
    assert used.counts == {}


def test_position_says_nothing_about_the_grade():
    many = rows(*[DATA[2] | {"ground_truth": [f"v{i}-{k}" for k in range(3)]} for i in range(200)])
    first = [row["relevance"][0] > 0 for row in IRPORanking(n=10).run(many, tools())]
    assert 0.2 < np.mean(first) < 0.4


def test_short_lists_and_sampled_negatives():
    used = tools(model=Echo(answer=lambda prompt, k: f"w{k % 3}\nand more"))
    out = list(IRPORanking(n=10, negatives="sampled").run(rows(DATA[1]), used))
    assert set(out[0]["items"]) == {"u1", "n1", "w0", "w1", "w2"}
    assert used.counts == {"lists_shorter_than_n": 1}
    with pytest.raises(ConfigError, match="give --model"):
        list(IRPORanking(negatives="sampled").run(rows(DATA[0]), tools()))
    lonely = tools()
    assert list(IRPORanking().run(rows({"prompt": "p", "ground_truth": ["only"]}), lonely)) == []
    assert lonely.counts == {"dropped_nothing_to_rank": 1}


def test_bad_rows():
    for data, field in (
        ({"prompt": "p"}, "ground_truth"),
        ({"prompt": "p", "ground_truth": ["a\nb"]}, "ground_truth"),
        ({"prompt": "p", "ground_truth": [""]}, "ground_truth"),
        ({"prompt": "p", "ground_truth": ["a"], "suggested": "b"}, "suggested"),
        ({"ground_truth": ["a"]}, "prompt"),
    ):
        with pytest.raises(DataError, match=f"row 1, field '{field}'"):
            list(IRPORanking().run(rows(data), tools()))
    with pytest.raises(ConfigError, match="--n must be at least 2"):
        list(IRPORanking(n=1).run(rows(*DATA), tools()))
