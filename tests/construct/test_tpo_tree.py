"""Branches of reasoning trees: prefixes, continuations, grades, steps."""

import pytest
from construct.list_rows import Echo, rows, tools

from jaxpo.construct.tpo_tree import TPOTree, answer_of, merge_steps, rescaled, rule_grade, split_steps
from jaxpo.data.rows.rows import read_record
from jaxpo.errors import ConfigError, DataError

SOLUTION = ["3 * 4 = 12.\n", "12 + 5 = 17.\n", "The answer is 17."]
ROW = {"prompt": "What is 3 * 4 + 5?\n", "solution": SOLUTION, "wrong": ["12 + 5 = 18.\n", "It is 18."], "prefix": 1}


def test_steps_join_up_again():
    text = "one\ntwo\n\nthree"
    assert split_steps(text, r"(?<=\n)(?=\S)") == ["one\n", "two\n\n", "three"]
    assert split_steps("\nStep 1: a Step 2: b", r"Step \d") == ["\nStep 1: a ", "Step 2: b"]
    assert split_steps("plain", "Step") == ["plain"]
    assert split_steps("", "Step") == []
    for marker in (r"(?<=\n)(?=\S)", r"\n", "t"):
        assert "".join(split_steps(text, marker)) == text


def test_merging_and_rescaling():
    assert merge_steps([["a", "b", "c", "d"], ["e", "f"], ["g", "h", "i"]]) == [["a", "bcd"], ["e", "f"], ["g", "hi"]]
    assert merge_steps([["a", "b"], ["c"]]) == [["ab"], ["c"]]
    assert [rescaled(x) for x in (-100, 0, 95, 100)] == [0.0, 0.5, 0.975, 1.0]


def test_the_rule_grades_by_answer_and_by_how_far_it_was_right():
    assert answer_of(["so 1,234.50 it is"]) == "1234.5"
    assert answer_of(["none"]) is None
    assert rule_grade(["Shortcut: 17.0"], SOLUTION) == 95.0
    assert rule_grade([*SOLUTION[:2], "The answer is 18."], SOLUTION) == pytest.approx(-100 + 200 / 3)
    assert rule_grade(["nothing"], SOLUTION) == -100.0
    assert rule_grade(["lucky 17"], SOLUTION, wrong=True) == -100.0


def test_a_row_without_a_model_gives_its_own_branches():
    used = tools()
    (row,) = TPOTree().run(rows(ROW), used)
    assert row["steps"] == [SOLUTION, [SOLUTION[0], "12 + 5 = 18.\n", "It is 18."]]
    assert row["scores"] == [1.0, pytest.approx(1 / 6)]
    assert used.counts == {"trees_with_fewer_branches": 1}
    read_record(rows(row)[0], "tree", extras=("scores",))


def test_random_prefixes_are_continued():
    model = Echo(answer=lambda prompt, k: f"Then {len(prompt)}.\nSo 17.")
    used = tools(seed=2, model=model)
    (row,) = TPOTree().run(rows(ROW), used)
    prefixes = {ROW["prompt"] + "".join(SOLUTION[:k]): SOLUTION[:k] for k in range(3)}
    asked = model.asked[0]
    assert sorted(asked["prompts"]) == sorted(prefixes)
    assert (asked["n"], asked["seed"]) == (1, 2)
    new = [[*prefixes[p], f"Then {len(p)}.\n", "So 17."] for p in asked["prompts"]]
    assert row["steps"] == [SOLUTION, [SOLUTION[0], *ROW["wrong"]], *new]
    assert row["scores"][2:] == [0.975] * 3
    assert used.counts == {"generated_branches": 3}
    assert list(TPOTree().run(rows(ROW), tools(seed=2, model=model))) == [row]


def test_repeated_continuations_are_left_out_and_rewards_capped():
    model = Echo(answer=lambda prompt, k: "the same" if prompt == ROW["prompt"] else SOLUTION[2])
    used = tools(model=model, reward=Echo(reward=lambda text: 50.0 if "same" in text else -50.0))
    (row,) = TPOTree(branches=6, grading="reward").run(rows(ROW), used)
    assert len({"".join(steps) for steps in row["steps"]}) == len(row["steps"])
    assert used.counts["generated_branches"] + used.counts["dropped_repeated_branches"] == 4
    assert used.counts["trees_with_fewer_branches"] == 1
    same = row["steps"].index(["the same"])
    assert row["scores"][same] == 0.975
    assert row["scores"][0] == 1.0
    assert row["scores"][1] == pytest.approx(0.0, abs=1e-12)


def test_the_rows_own_grades_others_and_merged_steps():
    data = ROW | {"others": [["Guess.\n", "17"]], "grades": [100, 40, -80]}
    (row,) = TPOTree(branches=3, merge=True).run(rows(data), tools())
    assert row["scores"] == [1.0, 0.7, 0.1]
    assert [len(steps) for steps in row["steps"]] == [2, 2, 2]
    assert ["".join(s) for s in row["steps"]] == ["".join(SOLUTION), "Guess.\n17", SOLUTION[0] + "".join(ROW["wrong"])]


def test_bad_rows_and_options():
    for change, field in (
        ({"solution": []}, "solution"),
        ({"solution": ["a", ""]}, "solution"),
        ({"wrong": "text"}, "wrong"),
        ({"prefix": 9}, "prefix"),
        ({"others": [[]]}, "others"),
        ({"grades": [100]}, "grades"),
        ({"grades": [100, 101]}, "grades"),
        ({"grades": [100, "x"]}, "grades"),
    ):
        with pytest.raises(DataError, match=f"row 1, field '{field}'"):
            list(TPOTree().run(rows(ROW | change), tools()))
    chat = ROW | {"prompt": [{"role": "user", "content": "x"}]}
    with pytest.raises(DataError, match="a prompt that is a string"):
        list(TPOTree().run(rows(chat), tools(model=Echo())))
    same = tools()
    assert list(TPOTree().run(rows(ROW | {"wrong": SOLUTION[1:]}), same)) == []
    assert same.counts == {"dropped_fewer_than_2_branches": 1}
    for options, message in (
        ({"branches": 1}, "--branches"),
        ({"marker": "("}, "--marker"),
        ({"temperature": 0}, "--temp"),
    ):
        with pytest.raises(ConfigError, match=message):
            list(TPOTree(**options).run(rows(ROW), tools()))
