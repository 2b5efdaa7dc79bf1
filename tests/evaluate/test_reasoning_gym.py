"""Puzzles by name, scored by their generator."""

import sys

import pytest
from fakes.replies import reply

from jaxpo.errors import ConfigError
from jaxpo.evaluate.tasks.reasoning_gym import ReasoningGym
from jaxpo.evaluate.tasks.registry import task_class

NAMES = ("chain_sum", "leg_counting", "prime_factorization", "basic_arithmetic", "letter_counting", "spell_backward")
NOTHING = {"score": 0, "solved": 0, "answered": 0}


def task(source="chain_sum", **settings):
    return ReasoningGym(source=source, **{"size": 3, **settings})


@pytest.mark.parametrize("name", NAMES)
def test_the_generators_own_answer_solves_its_puzzle_and_junk_does_not(name):
    one = task(name)
    for puzzle in one.examples():
        right = one.score(puzzle, reply(f"Let me see. <answer> {puzzle.entry['answer']} </answer>")).values
        assert right == {"score": 1.0, "solved": 1.0, "answered": 1.0}
        assert one.score(puzzle, reply("<answer>no such thing</answer>")).values["solved"] == 0
        assert one.score(puzzle, reply(str(puzzle.entry["answer"]))).values == NOTHING


def test_the_score_is_the_packages_own():
    one = task("basic_arithmetic")
    for puzzle in one.examples():
        for answer in (str(puzzle.entry["answer"]), f"{puzzle.entry['answer']} apples", "7", "x"):
            expected = one._generator.score_answer(answer, puzzle.entry)
            assert one.score(puzzle, reply(f"<answer>{answer}</answer>")).values["score"] == expected


def test_the_last_answer_counts_and_tags_may_hold_lines():
    one = task()
    (puzzle, *_) = one.examples()
    right = puzzle.entry["answer"]
    assert one.score(puzzle, reply(f"<answer>0.5</answer> no: <answer>\n{right}\n</answer>")).values["solved"] == 1
    assert one.score(puzzle, reply(f"<answer>{right}</answer> or <answer>0.5</answer>")).values["solved"] == 0


def test_an_answer_that_makes_the_scorer_fail_is_worth_nothing_and_not_counted_as_answered():
    one = task("prime_factorization")
    (puzzle, *_) = one.examples()
    with pytest.raises(ValueError, match="invalid literal"):
        one._generator.score_answer("two times three", puzzle.entry)
    assert one.score(puzzle, reply("<answer>two times three</answer>")).values == NOTHING


def test_puzzles_are_a_function_of_name_seed_and_number():
    first, again, other = task().examples(), task().examples(), task(puzzle_seed=1).examples()
    assert [p.question for p in first] == [p.question for p in again] != [p.question for p in other]
    assert [p.question for p in task(size=5).examples()][:3] == [p.question for p in first]
    assert len(task(size=6, limit=2).examples()) == 2


def test_settings_of_the_generator_reach_it():
    puzzles = task(config='{"min_terms": 5, "max_terms": 5}').examples()
    assert all(puzzle.entry["metadata"]["num_terms"] == 5 for puzzle in puzzles)


def test_samples_and_pass_at_k():
    one = task(samples=2, k=(1, 2), temperature=1.0)
    (puzzle, *_) = one.examples()
    values = one.score(puzzle, reply(f"<answer>{puzzle.entry['answer']}</answer>", "<answer>x</answer>")).values
    assert (values["solved"], values["solved_pass@1"], values["solved_pass@2"]) == (0.5, 0.5, 1.0)
    assert set(values) == set(one.scores())


def test_the_prompt_asks_for_the_tags():
    (puzzle, *_) = task().examples()
    system, user = task().prompt(puzzle)
    assert "<answer>" in system["content"]
    assert user["content"] == puzzle.question
    assert task(chat=False).prompt(puzzle).endswith(puzzle.question + "\n")
    assert task().format != task(wording="direct").format


@pytest.mark.parametrize(("settings", "words"), [
    ({"source": "chain_sums"}, "no generator 'chain_sums'. Did you mean chain_sum"),
    ({"source": "zzzz"}, "Known: ab, "),
    ({"wording": "x"}, "wording: 'x' is none of DeepSeekZero"),
    ({"config": '{"min_termz": 3}'}, "does not take"),
    ({"config": '{"min_terms": 0}'}, "chain_sum does not take"),
])  # fmt: skip
def test_what_cannot_be_generated(settings, words):
    with pytest.raises(ConfigError, match=words):
        task(**settings).examples()


def test_settings_that_are_wrong_are_named():
    assert [*task(size=0).problems()] == ["reasoning_gym.size: 0 must be at least 1."]
    assert "is no JSON" in next(task(config="{").problems())
    assert "must be a JSON object" in next(task(config="[]").problems())
    assert "needs the name of a generator" in next(task(source=None).problems())


def test_without_the_package_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(ConfigError, match=r"pip install 'jaxpo\[reasoning\]'"):
        task().examples()


def test_it_is_found_by_name():
    assert task_class("reasoning_gym") is ReasoningGym
